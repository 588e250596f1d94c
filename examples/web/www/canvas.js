// What all drawings share.

// A canvas's context in CSS pixels, emptied, with its size; `height` where the style gives none.
export function cleared(canvas, height) {
  if (height) canvas.style.height = `${height}px`;
  const { clientWidth: width, clientHeight } = canvas;
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(clientHeight * devicePixelRatio);
  const context = canvas.getContext('2d');
  context.scale(devicePixelRatio, devicePixelRatio);
  return { context, width, height: clientHeight };
}

export const dark = matchMedia('(prefers-color-scheme: dark)');
const colours = new Map();

// A colour of the style sheet, as this theme has it.
export function colour(name) {
  const key = `${name} ${dark.matches}`;
  if (!colours.has(key)) {
    const probe = document.createElement('span');
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    colours.set(key, getComputedStyle(probe).color);
    probe.remove();
  }
  return colours.get(key);
}
