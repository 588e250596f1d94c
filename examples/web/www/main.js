// The page: a frame at a time, training takes its share of the GPU, and what is new is drawn. Nothing here waits but for promises.

import { dark } from './canvas.js';
import { Course } from './course.js';
import { Curve } from './curve.js';
import { drawBatch, drawScan } from './digits.js';
import { Pad } from './pad.js';

// Steps between two looks at the held-out digits, and looks that are kept; beyond, each other one is.
const MEASURED = 50;
const MOST_MEASURED = 512;
// The weights are much smaller.
const LARGEST_FILE = 64 << 20;

const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// The steps since the start or the last reset, and how many of the held-out digits were right when.
export const history = { course: new Course(), measured: [] };

const curve = new Curve(element('curve'));
const pad = new Pad(element('pad'));
let wasm;
let page;
let running = false;
let isPrepared = false;
let isNew = true;
// When the newest frames and steps came.
let frames = [];
let paces = [];

function say(text, isBad = false) {
  element('message').textContent = text;
  element('message').className = isBad ? 'bad' : '';
  element('message').hidden = !text;
}

function fail(error) {
  stop();
  say(error instanceof Error ? error.message : String(error), true);
}

// A call that takes time has the page's model for itself: they queue, and training goes on behind them.
let busy = 0;
let queue = Promise.resolve();
function alone(call) {
  busy += 1;
  queue = queue.then(call).catch(fail).finally(() => { busy -= 1; });
  return queue;
}

function start() {
  say('');
  running = true;
  paces = [];
  buttons();
}

function stop() {
  if (running) measure();
  running = false;
  buttons();
}

function buttons() {
  element('start').disabled = running;
  element('stop').disabled = !running;
}

function begin() {
  history.course.clear();
  history.measured.length = 0;
  paces = [];
  measure();
  isNew = true;
}

function measure() {
  alone(async () => {
    const after = history.course.count;
    history.measured.push({ step: after, accuracy: await page.accuracy() });
    if (history.measured.length === MOST_MEASURED) history.measured = history.measured.filter((_, i) => i % 2 === 1);
    isNew = true;
  });
  readPad();
}

function readPad() {
  if (!pad.isEmpty) pad.isRead = false;
}

async function save() {
  await alone(async () => {
    const blob = new Blob([await page.save()], { type: 'application/octet-stream' });
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `digits-${history.course.count}.safetensors`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

function load(file) {
  stop();
  return alone(async () => {
    if (file.size > LARGEST_FILE) throw new Error(`${file.name} has ${file.size} bytes, far more than these weights take`);
    page.load(new Uint8Array(await file.arrayBuffer()), file.name);
    begin();
    say(`The weights of ${file.name} are loaded; Start goes on from them, with the first steps' few tokens.`);
  });
}

function reset() {
  stop();
  return alone(async () => {
    page.reset();
    begin();
    say('');
  });
}

function frame(now) {
  requestAnimationFrame(frame);
  frames = [...frames.filter((at) => now - at < 1000), now];
  if (!busy) work(now);
  if (isNew) draw();
  element('frames').textContent = frames.length > 1 ? frames.length : '–';
}

// What this frame does: one thing.
function work(now) {
  try {
    if (!isPrepared) {
      prepare();
    } else if (!pad.isRead) {
      readDrawing();
    } else if (running) {
      train(now);
    }
  } catch (error) {
    fail(error);
  }
}

// A kernel takes a driver up to a tenth of a second: all in one would halt the frames.
function prepare() {
  isPrepared = !page.prepare();
  if (isPrepared) {
    say('');
    begin();
  }
}

function train(now) {
  for (const { step, loss, accuracy, kept } of page.train(Number(element('budget').value))) {
    history.course.push({ step, loss, accuracy, kept });
    paces.push(now);
    isNew = true;
    if (history.course.count % MEASURED === 0) measure();
  }
}

function readDrawing() {
  pad.isRead = true;
  const scan = pad.isEmpty ? undefined : wasm.digit(pad.ink(), pad.width);
  drawScan(element('scan'), scan);
  if (!scan) return answer();
  alone(async () => answer(await page.read(scan)));
}

function answer(probabilities = new Float32Array(10)) {
  const best = Math.max(...probabilities);
  element('answer').replaceChildren(...Array.from(probabilities, (p, digit) => {
    const line = document.createElement('li');
    const [bar, text] = [document.createElement('i'), document.createElement('span')];
    line.dataset.digit = digit;
    line.className = p > 0 && p === best ? 'best' : '';
    bar.style.backgroundSize = `${100 * p}%`;
    text.textContent = best > 0 ? percent(p) : '';
    line.append(bar, text);
    return line;
  }));
}

function draw() {
  isNew = false;
  const { course, measured } = history;
  const { last } = course;
  const accuracy = measured.at(-1)?.accuracy;
  paces = paces.slice(-40);
  const [first, newest] = [paces[0], paces.at(-1)];
  element('step').textContent = course.count;
  element('loss').textContent = last ? last.loss.toFixed(3) : '–';
  element('accuracy').textContent = accuracy === undefined ? '–' : percent(accuracy);
  element('kept').textContent = last ? `${last.kept} of ${page.tokens}` : '–';
  element('pace').textContent = newest > first ? (1000 * (paces.length - 1) / (newest - first)).toFixed(1) : '–';
  curve.draw(course, measured);
  const view = page.view();
  drawBatch(element('tokens'), view, wasm.grid());
  element('seen-by').textContent = view.blocks
    ? `of digits in the current batch: a row for each of ${view.blocks} blocks; what is blue has been dropped`
    : 'of digits in the current batch: all of them, the kept length has come to the end';
  view.free();
}

async function open() {
  if (!navigator.gpu) {
    const why = window.isSecureContext ? 'This browser has no WebGPU' : 'Browsers offer WebGPU to https and localhost alone';
    throw new Error(`${why}, and this page needs it: Chrome and Edge from 113, Safari from 26, Firefox from 141 have it, on most systems.`);
  }
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) {
    throw new Error('This browser has WebGPU, but offers no GPU by it: its driver may be too old, or WebGPU switched off in the settings.');
  }
  wasm = await import('./pkg/wgrad_page.js');
  await wasm.default();
  page = await wasm.Page.open();
  const { vendor, architecture, description } = adapter.info;
  element('adapter').textContent = `Runs on ${description || [vendor, architecture].filter(Boolean).join(' ') || 'your GPU'}.`;
  document.querySelector('main').hidden = false;
  answer();
  say('Compiling the kernels …');
  requestAnimationFrame(frame);
}

element('budget').oninput = ({ target }) => { element('share').textContent = `${target.value} ms`; };
element('start').onclick = start;
element('stop').onclick = stop;
element('reset').onclick = reset;
element('save').onclick = save;
element('load').onclick = () => element('file').click();
element('file').onchange = ({ target }) => {
  if (target.files.length) load(target.files[0]);
  // So that the same file can be chosen again.
  target.value = '';
};
element('clear').onclick = () => pad.clear();
const again = () => {
  isNew = true;
  pad.draw();
};
new ResizeObserver(again).observe(document.body);
dark.addEventListener('change', again);

try {
  await open();
} catch (error) {
  element('adapter').hidden = true;
  fail(error);
}
