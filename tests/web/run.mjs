// Runs the crate beside it under Node.
//
//     node run.mjs FOLDER
//
// FOLDER holds what wasm-bindgen made for Node, and the npm package `webgpu`: Dawn, Chrome's WebGPU. Where there is more than one
// adapter, WEBGPU names options of it, such as "backend=vulkan adapter=llvmpipe".

import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(resolve(process.argv[2], 'run.mjs'));
const { create, globals } = await import(pathToFileURL(require.resolve('webgpu')));

// What wgpu looks for in a browser.
const navigator = { gpu: create((process.env.WEBGPU ?? '').split(' ').filter(Boolean)) };
Object.assign(globalThis, globals, { Window: Object });
Object.defineProperty(globalThis, 'navigator', { value: navigator });

const adapter = await require('./wgrad_web.js').train();
console.log(`trained in WebAssembly on ${adapter}`);
// Dawn keeps the process alive.
process.exit(0);
