// A pad to draw on, by mouse, pen or finger.

import { colour } from './canvas.js';

// Of the pad's own pixels. It should be about as wide as a pen's on a digit that fills the pad.
const STROKE = 26;

export class Pad {
  // Lines, each a list of points.
  #strokes = [];

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d', { willReadFrequently: true });
    // Whether nothing has changed since somebody said so.
    this.isRead = true;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#strokes.push([]);
      this.#add(event);
    };
    canvas.onpointermove = (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) this.#add(event);
    };
    this.draw();
  }

  get width() {
    return this.canvas.width;
  }

  get isEmpty() {
    return this.#strokes.length === 0;
  }

  clear() {
    this.#strokes = [];
    this.isRead = false;
    this.draw();
  }

  // 0 to 255 for each pixel, row by row.
  ink() {
    const { data } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3]);
  }

  draw() {
    const { context, canvas } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.strokeStyle = colour('ink');
    context.lineWidth = STROKE;
    context.lineCap = context.lineJoin = 'round';
    for (const points of this.#strokes) {
      context.beginPath();
      // One point alone is a dot.
      for (const [x, y] of [points[0], ...points]) context.lineTo(x, y);
      context.stroke();
    }
  }

  #add({ offsetX, offsetY }) {
    const scale = this.canvas.width / this.canvas.clientWidth;
    this.#strokes.at(-1).push([offsetX * scale, offsetY * scale]);
    this.isRead = false;
    this.draw();
  }
}
