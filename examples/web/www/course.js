// The losses of a run of any length, in so many points that a frame draws them quickly.

// Steps that the running mean goes over.
const MEAN = 20;
// Points that are kept; beyond, two neighbours become one.
const MOST = 1024;

export class Course {
  constructor() {
    this.clear();
  }

  clear() {
    // All steps so far, and the newest.
    this.count = 0;
    this.last = undefined;
    // The first losses as they came.
    this.first = [];
    // Means over `every` steps each, of the loss and of its running mean.
    this.points = [];
    this.every = 1;
    this.recent = [];
    this.open = { steps: 0, loss: 0, mean: 0 };
  }

  push(step) {
    this.count += 1;
    this.last = step;
    if (this.first.length < MOST) this.first.push(step.loss);
    this.recent.push(step.loss);
    if (this.recent.length > MEAN) this.recent.shift();
    const mean = this.recent.reduce((sum, loss) => sum + loss) / this.recent.length;
    const { open } = this;
    open.steps += 1;
    open.loss += step.loss;
    open.mean += mean;
    if (open.steps < this.every) return;
    this.points.push({ step: this.count, loss: open.loss / open.steps, mean: open.mean / open.steps });
    this.open = { steps: 0, loss: 0, mean: 0 };
    if (this.points.length === MOST) this.merge();
  }

  merge() {
    const { points } = this;
    const half = (a, b) => ({ step: b.step, loss: (a.loss + b.loss) / 2, mean: (a.mean + b.mean) / 2 });
    this.points = Array.from({ length: MOST / 2 }, (_, i) => half(points[2 * i], points[2 * i + 1]));
    this.every *= 2;
  }
}
