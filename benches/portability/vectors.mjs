// Computes on Dawn what tests have computed by wgpu, and compares.
//
//     node vectors.mjs FOLDER VECTORS
//
// FOLDER and the environment are those of device.mjs. VECTORS holds what tests/vectors.rs wrote, and says how.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { lacks, open } from './device.mjs';

const [folder, vectors] = process.argv.slice(2);
const { gpu, device, halves, name } = await open(folder);

// Of the largest value that was expected, and besides: sums are in one order everywhere, but what is fused, and exponentials, are not,
// and what cancels leaves their rounding.
const [RELATIVE, HALF, ABSOLUTE] = [1e-5, 2e-3, 1e-6];

function halfToNumber(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

// Numbers of two or of four bytes, and which of them are to be the same to the last bit. What is no tensor of floats may hold both
// integers and floats, as the optimiser's tables do: integers below 2^23 are no normal floats.
function reader(dtype) {
  if (dtype === 'f16') {
    return { size: 2, bits: (from, i) => from.readUInt16LE(2 * i), value: halfToNumber, isInteger: () => false };
  }
  const view = new DataView(new ArrayBuffer(4));
  const value = (bits) => (view.setUint32(0, bits), view.getFloat32(0));
  const isInteger = (bits) => dtype === 'integer' || (dtype !== 'f32' && (bits & 0x7f800000) === 0 && bits !== 0);
  return { size: 4, bits: (from, i) => from.readUInt32LE(4 * i), value, isInteger };
}

// Whether all is the same to the last bit; an error where something is not even nearly.
function compare(dtype, got, expected) {
  if (Buffer.compare(got, expected) === 0) return true;
  const { size, bits, value, isInteger } = reader(dtype);
  const words = (bytes) => Array.from({ length: bytes.length / size }, (_, i) => bits(bytes, i));
  const wanted = words(expected);
  const largest = wanted.map(value).filter(Number.isFinite).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const tolerance = ABSOLUTE + (dtype === 'f16' ? HALF : RELATIVE) * largest;
  words(got).forEach((word, i) => {
    const [mine, its] = [value(word), value(wanted[i])];
    if (word === wanted[i] || (Number.isNaN(mine) && Number.isNaN(its))) return;
    if (isInteger(word) || isInteger(wanted[i]) || !(Math.abs(mine - its) <= tolerance)) {
      throw new Error(`number ${i} of ${wanted.length}: ${mine} (${word}) for ${its} (${wanted[i]}), largest ${largest}`);
    }
  });
  return false;
}

function buffer(usage, bytes) {
  const size = Math.max(16, Math.ceil(bytes.length / 16) * 16);
  const made = device.createBuffer({ size, usage: usage | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
  if (bytes.length) device.queue.writeBuffer(made, 0, bytes);
  return made;
}

async function read(from, bytes) {
  const staging = device.createBuffer({ size: from.size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(from, 0, staging, 0, from.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const copy = Buffer.from(staging.getMappedRange().slice(0, bytes));
  staging.destroy();
  return copy;
}

async function compute({ kernel, entry, source, constants, groups, bindings }, params, before) {
  const layout = (binding, type) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } });
  const storage = bindings.map(({ writes }, i) => layout(i, writes ? 'storage' : 'read-only-storage'));
  const layouts = [storage, [layout(0, 'uniform')]].map((entries) => device.createBindGroupLayout({ entries }));
  const pipeline = await device.createComputePipelineAsync({
    label: kernel,
    layout: device.createPipelineLayout({ bindGroupLayouts: layouts }),
    compute: { module: device.createShaderModule({ code: source }), entryPoint: entry, constants },
  });
  const buffers = before.map((bytes) => buffer(GPUBufferUsage.STORAGE, bytes));
  // As wide as the engine's window: more than a kernel has fields.
  const uniform = buffer(GPUBufferUsage.UNIFORM, Buffer.concat([params, Buffer.alloc(256)]));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  [buffers.map((buffer, i) => ({ buffer, size: Math.max(4, before[i].length) })), [{ buffer: uniform }]].forEach((bound, i) => {
    const entries = bound.map((resource, binding) => ({ binding, resource }));
    pass.setBindGroup(i, device.createBindGroup({ layout: layouts[i], entries }));
  });
  pass.dispatchWorkgroups(...groups);
  pass.end();
  device.queue.submit([encoder.finish()]);
  const written = bindings.map(({ writes, bytes }, i) => (writes ? read(buffers[i], bytes) : undefined));
  const contents = await Promise.all(written);
  [...buffers, uniform].forEach((buffer) => buffer.destroy());
  return contents;
}

// Compares all that a dispatch writes; resolves to whether it is the same to the last bit, or nothing if it cannot be made here.
async function check(path) {
  const vector = JSON.parse(readFileSync(`${path}.json`, 'utf8'));
  if (lacks(halves, vector.source)) return undefined;
  const bytes = readFileSync(`${path}.bin`);
  let at = 0;
  const take = (size) => bytes.subarray(at, (at += size));
  const params = take(vector.params);
  const before = vector.bindings.map((binding) => take(binding.bytes));
  device.pushErrorScope('validation');
  const got = await compute(vector, params, before);
  const complaint = await device.popErrorScope();
  if (complaint) throw new Error(complaint.message);
  let same = true;
  vector.bindings.forEach(({ writes, dtype, bytes, elements }, i) => {
    if (!writes) return;
    const expected = take(bytes);
    try {
      same = compare(dtype, got[i].subarray(0, elements), expected.subarray(0, elements)) && same;
    } catch (error) {
      throw new Error(`binding ${i}, ${error.message}`);
    }
  });
  return same;
}

const files = readdirSync(vectors).filter((entry) => entry.endsWith('.json')).map((entry) => entry.slice(0, -5)).sort();
const kernels = new Set();
let [same, close, left, failed] = [0, 0, 0, 0];
for (const file of files) {
  try {
    const isSame = await check(join(vectors, file));
    if (isSame === undefined) left += 1;
    else {
      kernels.add(file.replace(/-\d+$/, ''));
      if (isSame) same += 1;
      else close += 1;
    }
  } catch (error) {
    failed += 1;
    console.log(`${file}: ${error.message.replace(/\s+/g, ' ')}`);
  }
}
console.log(`${name}: ${same + close} dispatches of ${kernels.size} kernels as wgpu has them, ${same} of them to the last bit; ${failed} not`);
if (left) console.log(`left out: ${left}, as the adapter has no half precision`);
// Dawn keeps the process alive; and `gpu` is alive until here.
process.exit(gpu && files.length && !failed ? 0 : 1);
