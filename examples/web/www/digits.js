// Digits, pixel by pixel.

import { cleared, colour } from './canvas.js';

// Digits that are shown of a batch, and from which width on; below it, half as many.
const SHOWN = 16;
const WIDE = 500;
const GAP = 6;
// How much of its ink a pixel has whose token is dropped.
const FAINT = 0.2;
// Pixels in a row of a digit.
const SIDE = 8;

// The first digits of a batch as each block sees them: a token that a block drops, a square of pixels, shows as such.
export function drawBatch(canvas, { grey, kept, blocks }, grid) {
  const [pixels, tokens] = [SIDE * SIDE, grid * grid];
  const [batch, patch] = [grey.length / pixels, SIDE / grid];
  const count = canvas.clientWidth < WIDE ? SHOWN / 2 : SHOWN;
  const size = Math.floor((canvas.clientWidth + GAP) / count) - GAP;
  const rows = Math.max(blocks, 1);
  const { context } = cleared(canvas, rows * (size + GAP) - GAP);
  for (let row = 0; row < rows; row += 1) {
    for (let shown = 0; shown < count; shown += 1) {
      const token = (x, y) => Math.floor(y / patch) * grid + Math.floor(x / patch);
      const isKept = (x, y) => !blocks || kept[(row * batch + shown) * tokens + token(x, y)];
      const digit = grey.subarray(shown * pixels, (shown + 1) * pixels);
      const [left, top] = [shown * (size + GAP), row * (size + GAP)];
      drawDigit(context, left, top, size, digit, isKept);
    }
  }
}

// What the model sees of a drawing; blank without one.
export function drawScan(canvas, grey) {
  const { context, width } = cleared(canvas);
  if (grey) drawDigit(context, 0, 0, width, grey, () => true);
}

function drawDigit(context, left, top, size, grey, isKept) {
  const [paper, dropped, ink] = [colour('paper'), colour('dropped'), colour('ink')];
  const edge = (i) => Math.round(i * size / SIDE);
  for (let i = 0; i < grey.length; i += 1) {
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    const cell = [left + edge(x), top + edge(y), edge(x + 1) - edge(x), edge(y + 1) - edge(y)];
    context.fillStyle = isKept(x, y) ? paper : dropped;
    context.fillRect(...cell);
    context.globalAlpha = grey[i] / 255 * (isKept(x, y) ? 1 : FAINT);
    context.fillStyle = ink;
    context.fillRect(...cell);
    context.globalAlpha = 1;
  }
}
