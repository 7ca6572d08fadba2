/**
 * Runs a case on a device and compares values and gradients with the reference.
 *
 * @module
 */
import { assert } from "@std/assert";
import type { Device } from "../../lib/device/device.ts";
import { mul } from "../../lib/ops/elementwise.ts";
import { constant } from "../../lib/ops/constant.ts";
import { input } from "../../lib/ops/input.ts";
import { sum } from "../../lib/ops/reduce.ts";
import type { Value, ValueType } from "../../lib/ops/value.ts";
import { gradients } from "../../lib/program/grad.ts";
import { type Program, trace } from "../../lib/program/program.ts";
import { float32ToBits, toFloat32 } from "../../lib/tensor/convert.ts";
import { type ScalarType, sizeOf } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { type Arrays, type Case, type CaseInput, noise } from "./cases.ts";
import type { Nd } from "./nd.ts";

/** A case made ready to run: the program, tensors, and the arrays that they hold exactly. */
interface Prepared {
  readonly program: Program;
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly arrays: Arrays;
  /** Factors of the outputs in the scalar whose gradient is taken. */
  readonly factors: Float64Array;
  readonly differentiated: readonly string[];
}

async function tensorOf(name: string, spec: CaseInput, seed: number): Promise<Tensor> {
  const { shape, dtype = "f32" } = spec;
  const values = spec.data ?? noise(sizeOf(shape), seed + name.length * 7);
  if (dtype === "f16" || dtype === "bf16") {
    return tensor(float32ToBits(Float32Array.from(values), dtype), { shape, dtype });
  }
  await Promise.resolve();
  return tensor(values as number[], { shape, dtype });
}

function hasGradient({ dtype = "f32", data, gradient }: CaseInput): boolean {
  return gradient ?? (dtype === "f32" && data === undefined);
}

/** Traces a case for a device. */
export async function prepareCase(
  test: Case,
  weightType: (dtype: ScalarType) => ValueType,
): Promise<Prepared> {
  const tensors: Record<string, Tensor> = {}, arrays: Record<string, Nd> = {};
  let seed = 1;
  for (const [name, spec] of Object.entries(test.inputs)) {
    const t = tensors[name] = await tensorOf(name, spec, seed++);
    arrays[name] = { shape: t.shape, data: Float64Array.from(await toFloat32(t)) };
  }
  const expected = test.reference(arrays);
  const factors = Float64Array.from(
    noise(expected.data.length, 99).map((v) => Math.fround(0.5 + v)),
  );
  const differentiated = Object.keys(test.inputs).filter((n) => hasGradient(test.inputs[n]));
  const program = trace((graph) => {
    const values: Record<string, Value> = {};
    for (const [name, { shape, dtype = "f32", role }] of Object.entries(test.inputs)) {
      const small = dtype === "f16" || dtype === "bf16";
      values[name] = input(graph, name, {
        shape,
        dtype: small ? weightType(dtype) : dtype as ValueType,
        role: small ? "weight" : role,
      });
    }
    const y = test.build(graph, values);
    const outputs: Record<string, Value> = { y };
    if (differentiated.length) {
      const weights = constant(graph, [...factors], { shape: y.shape });
      const gs = gradients(sum(mul(y, weights)), differentiated.map((n) => values[n]));
      differentiated.forEach((n, i) => outputs[`gradient of ${n}`] = gs[i]);
    }
    return outputs;
  });
  return { program, tensors, arrays, factors, differentiated };
}

/** Throws unless the device computes what the reference does. */
export async function checkCase(test: Case, device: Device): Promise<void> {
  const { program, tensors, arrays, factors, differentiated } = await prepareCase(
    test,
    (dtype) => device.weightType(dtype),
  );
  const executable = await device.compile(program);
  const results = await executable.run(tensors);
  const tolerance = test.tolerance ?? 2e-6;
  const expected = test.reference(arrays);
  assert(
    results.y.shape.join() === expected.shape.join(),
    `the shape is [${results.y.shape}], not [${expected.shape}]`,
  );
  compare("the value", await toFloat32(results.y), expected.data, tolerance);
  for (const name of differentiated) {
    const actual = await toFloat32(results[`gradient of ${name}`]);
    assert(
      actual.length === arrays[name].data.length,
      `the gradient of ${name} has ${actual.length} elements, not ${arrays[name].data.length}`,
    );
    const along = directions(actual.length);
    const wanted = along.map((d) => differenceAlong(d, test, { arrays, name, factors }));
    const found = along.map((d) => d.reduce((total, x, i) => total + (x ? x * actual[i] : 0), 0));
    compare(`the gradient of ${name}`, found, Float64Array.from(wanted), Math.max(tolerance, 2e-6));
  }
}

/** Directions in which a gradient is checked: each element by itself, or else a few mixtures of all, as each takes two runs of the reference. */
function directions(size: number): readonly Float64Array[] {
  return size <= 100
    ? Array.from({ length: size }, (_, i) => new Float64Array(size).fill(1, i, i + 1))
    : Array.from({ length: 8 }, (_, i) => Float64Array.from(noise(size, 300 + i)));
}

function differenceAlong(
  direction: Float64Array,
  test: Case,
  at: { readonly arrays: Arrays; readonly name: string; readonly factors: Float64Array },
): number {
  const { arrays, name, factors } = at;
  const { shape, data } = arrays[name];
  const step = 1e-5;
  const loss = (distance: number) => {
    const changed = data.map((x, i) => x + distance * direction[i]);
    const inputs = { ...arrays, [name]: { shape, data: changed } };
    const y = test.surrogate ? test.surrogate(inputs, arrays) : test.reference(inputs);
    return y.data.reduce((total, v, i) => total + v * factors[i], 0);
  };
  return (loss(step) - loss(-step)) / (2 * step);
}

function compare(
  what: string,
  actual: ArrayLike<number>,
  expected: Float64Array,
  tolerance: number,
): void {
  assert(
    actual.length === expected.length,
    `${what} has ${actual.length} elements, not ${expected.length}`,
  );
  const largest = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  // Finite differences are good to about 1e-9 of the values that they are taken of.
  const allowed = tolerance * largest + (tolerance ? 1e-8 : 0);
  let worst = 0, place = -1;
  expected.forEach((v, i) => {
    const error = Math.abs(actual[i] - v);
    if (!(error <= worst)) {
      worst = error;
      place = i;
    }
  });
  assert(
    place < 0 || worst <= allowed,
    `${what} is off by ${worst} at element ${place} (${actual[place]}, not ${
      expected[place]
    }); ${allowed} is allowed`,
  );
}
