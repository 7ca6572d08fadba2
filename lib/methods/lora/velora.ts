/**
 * VeLoRA: what goes into A is kept for its gradient in rank one (Miles et al., 2024,
 * arXiv:2405.17991).
 *
 * The features of an input are split into groups, and of each group only its projection onto one
 * direction v is kept; the gradient of A is that of an input made of these again, scale·(x·v)·v for
 * each group. Outputs and all other gradients are plain LoRA's.
 *
 * @module
 */
import { add, div, equal, mul, sqrt, sub } from "../../ops/elementwise.ts";
import { constant } from "../../ops/constant.ts";
import { matmul } from "../../ops/matmul.ts";
import { mean, sum } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { select } from "../../ops/select.ts";
import { pad, sliceAxis } from "../../ops/slice.ts";
import { stopGradient } from "../../ops/stop-gradient.ts";
import type { Value } from "../../ops/value.ts";
import { withGradientOf } from "../../ops/with-gradient-of.ts";
import { initial, type LoraTrace, lowRank, scaleOf, times } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** `veloraConfig`. */
export const velora: LoraVariant = {
  field: "veloraConfig",
  kinds: ["linear", "conv1d"],
  leaves({ config, site }, plain) {
    const { initType, numGroups } = config.veloraConfig!;
    const size = Math.ceil(site.inFeatures / numGroups);
    return {
      ...plain,
      lora_velora_embed: {
        shape: [size],
        kind: "state",
        init({ random }) {
          if (initType !== "random") return new Float32Array(size);
          const drawn = random.normal(size), length = Math.hypot(...drawn);
          return drawn.map((x) => x / length);
        },
      },
    };
  },
  rule: (plain) => ({
    ...plain,
    apply: (trace, x) => trace.pass.training ? compressed(trace, x) : plain.apply!(trace, x),
  }),
};

function compressed(trace: LoraTrace, x: Value): Value {
  const { pass, config, leaves: { lora_A: a, lora_B: b } } = trace;
  const seen = pass.dropout(x, config.loraDropout), kept = madeAgain(trace, stopGradient(seen));
  const product = (x: Value, a: Value) => matmul(x, a, { transposeB: true });
  const inner = withGradientOf(
    product(seen, a),
    add(product(seen, stopGradient(a)), product(kept, a)),
  );
  const y = product(times(inner, scaleOf(trace)), b);
  const taken = initial(trace);
  return taken ? sub(y, lowRank(x, taken, scaleOf(trace))) : y;
}

/** The input as it is made again from what is kept of it. */
function madeAgain(trace: LoraTrace, x: Value): Value {
  const { config, site: { inFeatures } } = trace, { numGroups, scale } = config.veloraConfig!;
  const rows = reshape(x, [-1, inFeatures]);
  const size = Math.ceil(inFeatures / numGroups), padding = numGroups * size - inFeatures;
  const groups = reshape(pad(rows, { low: [0, 0], high: [0, padding] }), [-1, numGroups, size]);
  const direction = directionOf(trace, groups);
  const kept = trace.pass.boundary(sum(mul(groups, direction), { axes: [2], keepDims: true }));
  const whole = reshape(mul(mul(kept, direction), scale), [-1, numGroups * size]);
  return reshape(sliceAxis(whole, { axis: 1, start: 0, size: inFeatures }), x.shape);
}

/** The direction that groups [tokens, groups, size] are projected onto. */
function directionOf(trace: LoraTrace, groups: Value): Value {
  const { pass, config, leaves: { lora_velora_embed: held } } = trace;
  const { initType } = config.veloraConfig!;
  if (initType === "random") return held;
  const found = normalized(mean(groups, { axes: [0, 1] }));
  const direction = initType === "batch_average" ? found : select(isZero(held), found, held);
  pass.update(held, direction);
  return direction;
}

function isZero(x: Value): Value {
  return equal(sum(mul(x, x), { axes: [0], keepDims: true }), 0);
}

/** A vector of length one; all the same where it has none. */
function normalized(x: Value): Value {
  const [size] = x.shape, flat = constant(x.graph, 1 / Math.sqrt(size), { shape: [size] });
  const length = sqrt(sum(mul(x, x), { axes: [0], keepDims: true }));
  return select(isZero(x), flat, div(x, length));
}
