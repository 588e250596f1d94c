// Dawn, Chrome's WebGPU, over whatever Vulkan driver there is.
//
//     node dawn.mjs FOLDER --versions     says which Dawn this is, and on what
//     node dawn.mjs FOLDER                reads lines FILE<tab>ENTRY<tab>CONSTANTS, makes a pipeline of each, and answers by a line:
//                                         ok, failed or absent<tab>milliseconds<tab>message
//
// FOLDER holds the npm package `webgpu`. Where there is more than one adapter, WEBGPU names options of it, such as
// "backend=vulkan adapter=llvmpipe".

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [folder, what] = process.argv.slice(2);
const require = createRequire(resolve(folder, 'dawn.mjs'));
const { create } = await import(pathToFileURL(require.resolve('webgpu')));
const version = JSON.parse(readFileSync(resolve(folder, 'node_modules/webgpu/package.json'), 'utf8')).version;

// Kept, or it is freed under the adapter.
const gpu = create((process.env.WEBGPU ?? '').split(' ').filter(Boolean));
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('Dawn has no adapter here');
const halves = adapter.features.has('shader-f16');
const device = await adapter.requestDevice({ requiredFeatures: halves ? ['shader-f16'] : [] });

async function compile(line) {
  const [file, entryPoint, constants] = line.split('\t');
  const code = readFileSync(file, 'utf8');
  if (!halves && /^enable .*\bf16\b/.test(code)) return ['absent', 0, 'the adapter has no half precision'];
  const start = performance.now();
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  let failure = messages.find((message) => message.type === 'error')?.message;
  const compute = { module, entryPoint, constants: JSON.parse(constants) };
  await device.createComputePipelineAsync({ layout: 'auto', compute }).catch((error) => (failure ??= error.message));
  failure ??= (await device.popErrorScope())?.message;
  const took = Math.round(performance.now() - start);
  return failure ? ['failed', took, failure.replace(/\s+/g, ' ')] : ['ok', took, ''];
}

if (what === '--versions') {
  console.log(`Tint of Dawn (npm webgpu ${version}) on ${adapter.info.description || adapter.info.device}`);
} else {
  for await (const line of createInterface({ input: process.stdin })) console.log((await compile(line)).join('\t'));
}
// Dawn keeps the process alive; and `gpu` is alive until here.
process.exit(gpu ? 0 : 1);
