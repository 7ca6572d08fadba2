/**
 * Rotary position embeddings (Su et al., 2021, arXiv:2104.09864).
 *
 * @module
 */
import type {
  Architecture,
  ArchitecturePass,
  HostInputs,
  ModelConfig,
} from "../model/architecture.ts";
import { concat } from "../ops/concat.ts";
import { reshape } from "../ops/reshape.ts";
import { rope } from "../ops/rope.ts";
import { sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type RopeConfig, ropeLimit } from "./rope-config.ts";
import { ropeFrequencies } from "./rope-frequencies.ts";

/**
 * Cosines and sines [B, T, size / 2] at the given positions, computed on the host in double
 * precision.
 */
export function ropeTables(
  config: RopeConfig,
  inputs: HostInputs,
  name = "rope",
): Readonly<Record<string, Tensor>> {
  const { frequencies, factor } = ropeFrequencies(config, inputs.length);
  const half = frequencies.length, n = inputs.positions.length;
  const cos = new Float32Array(n * half), sin = new Float32Array(n * half);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < half; j++) {
      // transformers rounds frequencies and angles to single precision, and outputs are compared
      // with its own.
      const angle = Math.fround(inputs.positions[i] * Math.fround(frequencies[j]));
      cos[i * half + j] = Math.cos(angle) * factor;
      sin[i * half + j] = Math.sin(angle) * factor;
    }
  }
  const shape = [...inputs.shape, half];
  return { [`${name}.cos`]: tensor(cos, { shape }), [`${name}.sin`]: tensor(sin, { shape }) };
}

/**
 * Rotates queries and keys [B, T, H, D], or the first features of each head, by their positions, with
 * the tables of this name.
 */
export function rotation(
  pass: ArchitecturePass,
  positions: Value,
  { size, interleaved }: RopeConfig,
  name = "rope",
): (x: Value) => Value {
  const table = { shape: [...positions.shape, size / 2], dtype: "f32" } as const;
  const cos = pass.hostInput(`${name}.cos`, table), sin = pass.hostInput(`${name}.sin`, table);
  const turn = (x: Value) => {
    if (!interleaved) return rope(x, { cos, sin });
    const apart = swapped(x, [size / 2, 2]);
    return swapped(rope(apart, { cos, sin }), [2, size / 2]);
  };
  return (x) => {
    const full = x.shape[3];
    if (size === full) return turn(x);
    return concat([
      turn(sliceAxis(x, { axis: 3, start: 0, size })),
      sliceAxis(x, { axis: 3, start: size, size: full - size }),
    ], { axis: 3 });
  };
}

/** Of [B, T, H, M·N] as [B, T, H, N·M]. */
function swapped(x: Value, sizes: readonly [m: number, n: number]): Value {
  const parts = reshape(x, [...x.shape.slice(0, 3), ...sizes]);
  return reshape(transpose(parts, [0, 1, 2, 4, 3]), x.shape);
}

/** Rotations of one model by name. */
export type Ropes = Readonly<Record<string, RopeConfig>>;

/** {@link rotation} for each. */
export function rotations(
  pass: ArchitecturePass,
  positions: Value,
  ropes: Ropes,
): Readonly<Record<string, (x: Value) => Value>> {
  return Object.fromEntries(
    Object.entries(ropes).map(([name, rope]) => [name, rotation(pass, positions, rope, name)]),
  );
}

/** What an architecture with rotated heads says about its positions. */
export function ropeRules(
  read: (config: ModelConfig) => Ropes,
): Required<Pick<Architecture, "maxPositions" | "hostInputs">> {
  return {
    maxPositions: (config) => Math.min(...Object.values(read(config)).map(ropeLimit)),
    hostInputs: (config, inputs) =>
      Object.assign(
        {},
        ...Object.entries(read(config)).map(([name, rope]) => ropeTables(rope, inputs, name)),
      ),
  };
}
