// What Dawn's compiler says.
//
//     node dawn.mjs FOLDER --versions     says which Dawn this is, and on what
//     node dawn.mjs FOLDER                reads lines FILE<tab>ENTRY<tab>CONSTANTS, makes a pipeline of each, and answers by a line:
//                                         ok, failed or absent<tab>milliseconds<tab>message
//
// FOLDER and the environment are those of device.mjs.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { lacks, open } from './device.mjs';

const [folder, what] = process.argv.slice(2);
const { gpu, device, halves, name } = await open(folder);

async function compile(line) {
  const [file, entryPoint, constants] = line.split('\t');
  const code = readFileSync(file, 'utf8');
  const missing = lacks(halves, code);
  if (missing) return ['absent', 0, missing];
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
  console.log(`Tint of ${name}`);
} else {
  for await (const line of createInterface({ input: process.stdin })) console.log((await compile(line)).join('\t'));
}
// Dawn keeps the process alive; and `gpu` is alive until here.
process.exit(gpu ? 0 : 1);
