// Dawn, Chrome's WebGPU, over whatever Vulkan driver there is.
//
// `open(FOLDER)` takes it from the npm package `webgpu` there. Where there is more than one adapter, WEBGPU names options of it, such
// as "backend=vulkan adapter=llvmpipe".

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

export async function open(folder) {
  const require = createRequire(resolve(folder, 'device.mjs'));
  const { create, globals } = await import(pathToFileURL(require.resolve('webgpu')));
  Object.assign(globalThis, globals);
  const version = JSON.parse(readFileSync(resolve(folder, 'node_modules/webgpu/package.json'), 'utf8')).version;
  const gpu = create((process.env.WEBGPU ?? '').split(' ').filter(Boolean));
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error('Dawn has no adapter here');
  const halves = adapter.features.has('shader-f16');
  const device = await adapter.requestDevice({ requiredFeatures: halves ? ['shader-f16'] : [] });
  const name = `Dawn (npm webgpu ${version}) on ${adapter.info.description || adapter.info.device}`;
  // The first must be kept, or it is freed under the others.
  return { gpu, device, halves, name };
}

// Why a text cannot be compiled here, if that is so.
export function lacks(halves, source) {
  return !halves && /^enable .*\bf16\b/.test(source) ? 'the adapter has no half precision' : undefined;
}
