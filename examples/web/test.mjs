// Drives the page in headless Chromium, and holds its losses beside native ones.
//
//     node test.mjs FOLDER
//
// FOLDER holds `native.json`, what `src/bin/native.rs` printed, and the npm package playwright-core; screenshots go there. CHROMIUM names
// the browser, by default /usr/bin/chromium.

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { extname, join, resolve } from 'node:path';

const folder = resolve(process.argv[2]);
const { chromium } = createRequire(join(folder, 'test.mjs'))('playwright-core');
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const WEBGPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
// Of a loss.
const TOLERANCE = 1e-3;
// More than the losses that are compared, so that there is something to see.
const STEPS = Number(process.env.STEPS ?? 40);
const PATIENCE = 240_000;

const TYPES = { '.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' };
const www = join(import.meta.dirname, 'www');
const server = createServer(async ({ url }, response) => {
  try {
    const path = url === '/' ? '/index.html' : url;
    const content = await readFile(join(www, path));
    response.writeHead(200, { 'content-type': TYPES[extname(path)] ?? 'application/octet-stream' }).end(content);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => { server.listen(0, 'localhost', listening); });
const address = `http://localhost:${server.address().port}/`;

async function open(args, colorScheme = 'light') {
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', ...args] });
  const page = await browser.newPage({ viewport: { width: 1000, height: 1180 }, colorScheme });
  page.setDefaultTimeout(PATIENCE);
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
  await page.goto(address);
  return { browser, page, errors };
}

// Opened, with its kernels compiled and the held-out digits looked at.
const ready = (page) => page.locator('#accuracy', { hasText: '%' }).waitFor();
const losses = (page) => page.evaluate(async () => (await import('./main.js')).history.course.first);
const message = (page) => page.textContent('#message');
const shot = (page, name) => page.screenshot({ path: join(folder, name), fullPage: true });

async function trained(page, steps) {
  await page.click('#start');
  await page.waitForFunction((steps) => Number(document.getElementById('step').textContent) >= steps, steps);
}

// Draws a seven; what the model says of it, digit by digit.
async function read(page) {
  await page.click('#clear');
  const { x, y, width } = await page.locator('#pad').boundingBox();
  const points = [[0.25, 0.2], [0.75, 0.2], [0.6, 0.5], [0.45, 0.85]].map(([px, py]) => [x + px * width, y + py * width]);
  await page.mouse.move(...points[0]);
  await page.mouse.down();
  for (const point of points) await page.mouse.move(...point, { steps: 5 });
  await page.mouse.up();
  await page.waitForSelector('#answer .best');
  // Until nothing is on its way any more.
  let [before, now] = [null, await page.innerText('#answer')];
  while (before !== now) {
    await page.waitForTimeout(1500);
    [before, now] = [now, await page.innerText('#answer')];
  }
  return now;
}

const tests = {
  async 'its losses are those of the same lesson outside a browser, and frames go on meanwhile'({ page }) {
    const native = JSON.parse(await readFile(join(folder, 'native.json'), 'utf8'));
    await page.evaluate(() => {
      window.gaps = [];
      let last = performance.now();
      requestAnimationFrame(function next(now) {
        window.gaps.push(now - last);
        last = now;
        requestAnimationFrame(next);
      });
    });
    await ready(page);
    await page.locator('#budget').fill('30');
    const begun = Date.now();
    await trained(page, STEPS);
    const seconds = (Date.now() - begun) / 1000;
    const gaps = (await page.evaluate(() => window.gaps)).sort((a, b) => a - b);
    const own = await losses(page);
    const apart = native.losses.map((loss, i) => Math.abs(loss - own[i]));
    const gap = (share) => gaps[Math.floor(share * (gaps.length - 1))].toFixed(1);
    const frames = 1000 * gaps.length / gaps.reduce((sum, gap) => sum + gap);
    console.log(`  ${(own.length / seconds).toFixed(1)} steps a second; natively ${native.steps_per_second.toFixed(1)} on ${native.adapter}`);
    console.log(`  ${frames.toFixed(0)} frames a second from the first on; between two of them half of the time up to ${gap(0.5)} ms,`
      + ` 99 of 100 times up to ${gap(0.99)} ms, at most ${gap(1)} ms`);
    console.log(`  ${apart.length} losses, at most ${Math.max(...apart)} apart`);
    assert.ok(apart.length >= 20 && Math.max(...apart) < TOLERANCE, `native ${native.losses}, in the page ${own}`);
    assert.ok(gaps.length > 10);
  },

  async 'it reads what is drawn, and its weights can be saved and loaded'({ page }) {
    await page.click('#stop');
    const answer = await read(page);
    assert.match(answer, /%/);
    await shot(page, 'page.png');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')]);
    await download.saveAs(join(folder, 'digits.safetensors'));

    await page.reload();
    await ready(page);
    assert.notEqual(await read(page), answer);
    await page.setInputFiles('#file', join(folder, 'digits.safetensors'));
    await page.getByText('are loaded').waitFor();
    assert.equal(await read(page), answer);
  },

  async 'a file that is wrong is refused in words, and nothing has changed'({ page }) {
    const good = await readFile(join(folder, 'digits.safetensors'));
    const header = Number(good.readBigUInt64LE());
    const renamed = Buffer.from(good);
    renamed.set(Buffer.from('hood'), renamed.indexOf('head.weight'));
    const lying = Buffer.from(good);
    lying.writeBigUInt64LE(2n ** 63n);
    const answer = await read(page);
    const files = {
      'cut.safetensors': [good.subarray(0, 8 + header + 100), /data bytes/],
      'empty.safetensors': [Buffer.alloc(0), /too short/],
      'lying.safetensors': [lying, /header/],
      'other.safetensors': [renamed, /head\.weight/],
      'page.html': [Buffer.from('<html>not found</html>'), /web page/],
    };
    for (const [name, [content, complaint]] of Object.entries(files)) {
      await writeFile(join(folder, name), content);
      await page.setInputFiles('#file', join(folder, name));
      await page.locator('#message.bad', { hasText: complaint }).waitFor();
    }
    assert.equal(await read(page), answer);
  },

  async 'a reset begins anew, and training can be stopped and go on'({ page }) {
    const { losses: [first, second, third] } = JSON.parse(await readFile(join(folder, 'native.json'), 'utf8'));
    await page.click('#reset');
    await page.locator('#message').waitFor({ state: 'hidden' });
    await trained(page, 1);
    await page.click('#stop');
    await trained(page, 3);
    await page.click('#stop');
    const own = (await losses(page)).slice(0, 3);
    assert.ok([first, second, third].every((loss, i) => Math.abs(loss - own[i]) < TOLERANCE), String(own));
  },

  async 'it fits a phone, and the dark'({ page }) {
    await page.emulateMedia({ colorScheme: 'dark' });
    await page.waitForTimeout(500);
    await shot(page, 'dark.png');
    await page.setViewportSize({ width: 390, height: 800 });
    await page.waitForTimeout(500);
    await shot(page, 'phone.png');
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  },
};

const { browser, page, errors } = await open(WEBGPU);
for (const [name, test] of Object.entries(tests)) {
  console.log(name);
  await test({ page });
  assert.deepEqual(errors, []);
}
await browser.close();

console.log('without WebGPU it says so');
const plain = await open(['--disable-features=WebGPU', '--disable-gpu']);
await plain.page.locator('#message.bad', { hasText: 'WebGPU' }).waitFor();
console.log(`  ${await message(plain.page)}`);
await shot(plain.page, 'without.png');
assert.ok(await plain.page.locator('main').isHidden());
assert.deepEqual(plain.errors, []);
await plain.browser.close();
server.close();
