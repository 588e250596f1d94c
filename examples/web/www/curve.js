// Loss over steps, with the held-out digits' accuracy.

import { cleared, colour } from './canvas.js';

const EDGE = { left: 34, right: 44, top: 8, bottom: 22 };
// Ln 10, what guessing costs, lies below.
const LARGEST = 2.5;

export class Curve {
  constructor(canvas) {
    this.canvas = canvas;
  }

  draw(course, measured) {
    const { context, width, height } = cleared(this.canvas);
    const span = Math.max(100, course.count);
    const x = (step) => EDGE.left + (width - EDGE.left - EDGE.right) * step / span;
    const y = (share) => EDGE.top + (height - EDGE.top - EDGE.bottom) * (1 - share);
    const atLoss = (loss) => y(Math.min(loss, LARGEST) / LARGEST);
    axes(context, x, y, span);

    context.lineJoin = 'round';
    context.strokeStyle = colour('accent');
    context.globalAlpha = 0.35;
    context.lineWidth = 1;
    line(context, course.points.map(({ step, loss }) => [x(step), atLoss(loss)]));
    context.globalAlpha = 1;
    context.lineWidth = 2;
    line(context, course.points.map(({ step, mean }) => [x(step), atLoss(mean)]));

    context.strokeStyle = context.fillStyle = colour('second');
    const points = measured.map(({ step, accuracy }) => [x(step), y(accuracy)]);
    line(context, points);
    for (const [px, py] of points) {
      context.beginPath();
      context.arc(px, py, 3, 0, 2 * Math.PI);
      context.fill();
    }
  }
}

function axes(context, x, y, span) {
  context.font = '11px system-ui, sans-serif';
  context.strokeStyle = colour('line');
  context.fillStyle = colour('soft');
  context.textBaseline = 'middle';
  for (let share = 0; share <= 1; share += 0.2) {
    line(context, [[x(0), y(share)], [x(span), y(share)]]);
    context.textAlign = 'right';
    context.fillText((LARGEST * share).toFixed(1), x(0) - 6, y(share));
    context.textAlign = 'left';
    context.fillText(`${Math.round(100 * share)} %`, x(span) + 6, y(share));
  }
  context.textBaseline = 'top';
  context.textAlign = 'center';
  // 1, 2 or 5 with zeros: at most ten labels.
  const power = 10 ** Math.floor(Math.log10(span / 5));
  const every = power * [1, 2, 5].find((factor) => span / (power * factor) <= 10);
  for (let step = 0; step <= span; step += every) context.fillText(step, x(step), y(0) + 6);
}

function line(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}
