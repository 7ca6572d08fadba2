/**
 * Frequencies of rotary position embeddings and the ways to stretch them over longer sequences.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import type { RopeConfig } from "./rope-config.ts";

/**
 * Refuses settings that give frequencies which are none, before a model runs.
 *
 * @throws {ConfigError} `ROPE_PARAMETER`, `ROPE_TYPE`.
 */
export function checkRope(rope: RopeConfig): void {
  const sizes = [1, rope.original + 1].map((length) => ropeFrequencies(rope, length));
  const good = sizes.every(({ frequencies, factor }) =>
    [...frequencies, factor].every((x) => Number.isFinite(x) && x >= 0)
  );
  if (good) return;
  throw new ConfigError(
    "ROPE_PARAMETER",
    `RoPE of type ${
      JSON.stringify(rope.type)
    } with rope_theta ${rope.theta} over ${rope.size} features gives no frequencies ` +
      `with the parameters ${JSON.stringify(rope.parameters).slice(0, 300)}.`,
  );
}

/**
 * Frequencies (radians per position, one for each pair) and the factor on cosine and sine.
 *
 * The kinds: `default`; `linear` (Chen et al., 2023, arXiv:2306.15595); `dynamic` NTK scaling;
 * `yarn` (Peng et al., 2023, arXiv:2309.00071); `llama3` (Llama 3.1); `longrope` (Ding et al.,
 * 2024, arXiv:2402.13753).
 *
 * @param rope Settings.
 * @param length Length of the whole sequence, which `dynamic` and `longrope` depend on.
 */
export function ropeFrequencies(
  rope: RopeConfig,
  length: number,
): { readonly frequencies: Float64Array; readonly factor: number } {
  const { size, theta, parameters: p, maxPositions, original } = rope;
  const number = (name: string, otherwise?: number): number => {
    const value = p[name] ?? otherwise;
    if (typeof value !== "number" || !(value > 0)) {
      throw new ConfigError(
        "ROPE_PARAMETER",
        `RoPE scaling of type "${rope.type}" needs a number above 0 for "${name}" in rope_scaling; found ${
          JSON.stringify(p)
        }.`,
      );
    }
    return value;
  };
  /** Of those for which 0 stands for none. */
  const optional = (name: string) => p[name] ? number(name) : undefined;
  const plain = (base: number) =>
    Float64Array.from({ length: size / 2 }, (_, i) => base ** (-2 * i / size));
  switch (rope.type) {
    case "default":
      return { frequencies: plain(theta), factor: 1 };
    case "linear": {
      const factor = number("factor");
      return { frequencies: plain(theta).map((f) => f / factor), factor: 1 };
    }
    case "dynamic": {
      const factor = number("factor");
      const n = Math.max(length, original);
      const base = theta * ((factor * n / original) - (factor - 1)) ** (size / (size - 2));
      return { frequencies: plain(base), factor: 1 };
    }
    case "llama3": {
      const factor = number("factor"),
        low = number("low_freq_factor"),
        high = number("high_freq_factor");
      return {
        frequencies: plain(theta).map((f) => {
          const wavelength = 2 * Math.PI / f;
          if (wavelength < original / high) return f;
          if (wavelength > original / low) return f / factor;
          const smooth = (original / wavelength - low) / (high - low);
          return (1 - smooth) * f / factor + smooth * f;
        }),
        factor: 1,
      };
    }
    case "yarn": {
      const factor = number("factor", maxPositions / original);
      const magnitude = (scale: number, m: number) =>
        scale <= 1 ? 1 : 0.1 * m * Math.log(scale) + 1;
      const mscale = optional("mscale"), mscaleAll = optional("mscale_all_dim");
      const attention = optional("attention_factor") ??
        (mscale && mscaleAll
          ? magnitude(factor, mscale) / magnitude(factor, mscaleAll)
          : magnitude(factor, 1));
      const dimension = (rotations: number) =>
        size * Math.log(original / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
      const truncate = p.truncate !== false;
      let low = dimension(optional("beta_fast") ?? 32);
      let high = dimension(optional("beta_slow") ?? 1);
      if (truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
      low = Math.max(low, 0);
      high = Math.min(high, size - 1);
      if (low === high) high += 0.001;
      return {
        frequencies: plain(theta).map((f, i) => {
          const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
          return (f / factor) * ramp + f * (1 - ramp);
        }),
        factor: attention,
      };
    }
    case "longrope": {
      const factor = number("factor", maxPositions / original);
      const list = (length > original ? p.long_factor : p.short_factor) as
        | readonly number[]
        | undefined;
      if (!Array.isArray(list) || list.length !== size / 2 || !list.every((x) => x > 0)) {
        throw new ConfigError(
          "ROPE_PARAMETER",
          `RoPE scaling of type "longrope" needs long_factor and short_factor with ${
            size / 2
          } numbers above 0 each.`,
        );
      }
      const attention = optional("attention_factor") ??
        (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original)));
      return { frequencies: plain(theta).map((f, i) => f / list[i]), factor: attention };
    }
    default:
      throw new ConfigError(
        "ROPE_TYPE",
        `RoPE scaling of type ${
          JSON.stringify(rope.type.slice(0, 80))
        } is not known; known are default, linear, dynamic, yarn, llama3 and longrope.`,
      );
  }
}
