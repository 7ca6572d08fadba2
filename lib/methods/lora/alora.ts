/**
 * aLoRA: activated LoRA (Greenewald et al., 2025, arXiv:2504.12397).
 *
 * An adapter takes part from the last place on where its invocation tokens stand in a row; the keys
 * and values of the tokens before are the base's, and so is a row without them.
 *
 * @module
 */
import { ConfigError, UnsupportedError } from "../../errors.ts";
import { add, greaterEqual } from "../../ops/elementwise.ts";
import { cast } from "../../ops/cast.ts";
import { constant } from "../../ops/constant.ts";
import { iota } from "../../ops/iota.ts";
import { reshape } from "../../ops/reshape.ts";
import { select } from "../../ops/select.ts";
import type { Value } from "../../ops/value.ts";
import { scaled } from "../site-rule.ts";
import type { LoraConfig } from "./lora-config.ts";
import type { LoraTrace } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** Where an adapter begins that never does. */
const NEVER = 2 ** 30;

/** `aloraInvocationTokens`. */
export const alora: LoraVariant = {
  field: "aloraInvocationTokens",
  kinds: ["linear", "conv1d"],
  leaves({ config }, plain) {
    if (config.taskType === "CAUSAL_LM") return plain;
    throw new ConfigError(
      "CONFIG_ALORA",
      `aloraInvocationTokens are looked for in what a language model reads: set taskType to "CAUSAL_LM"; found ${
        JSON.stringify(config.taskType)
      }.`,
    );
  },
  rowInputs: (config) => ({ [inputName(config)]: (ids) => startOf(config, ids) }),
  rule: ({ apply }) => ({
    scales: true,
    forward(trace, { x, result }) {
      const change = scaled(apply!(trace, x), trace.multiplier);
      const none = constant(x.graph, 0, { shape: change.shape });
      return add(result, select(isOn(trace, x), change, none));
    },
  }),
};

function inputName({ aloraInvocationTokens: tokens }: LoraConfig): string {
  return `alora.${tokens!.join("_")}`;
}

/** Where a row's last invocation begins. */
function startOf({ aloraInvocationTokens: tokens }: LoraConfig, ids: Int32Array): number {
  for (let start = ids.length - tokens!.length; start >= 0; start--) {
    if (tokens!.every((token, i) => ids[start + i] === token)) return start;
  }
  return NEVER;
}

/** Which of the rows that go into a site the adapter takes part at, [B, T, 1]. */
function isOn({ pass, config, site }: LoraTrace, x: Value): Value {
  const { graph } = pass, axes = ["batch", "tokens"] as const;
  const start = pass.batchInput({ name: inputName(config), axes: ["batch"], dtype: "i32" });
  const [batch, length] = pass.batchInput({ name: "ids", axes, dtype: "i32" }).shape;
  const place = add(iota(graph, [1, length], { axis: 1 }), pass.offset);
  const on = reshape(greaterEqual(place, reshape(start, [batch, 1])), [batch, length, 1]);
  const [rows, count] = x.shape;
  if (x.shape.length === 3 && rows === batch && count === length) return on;
  // A head may get some of the rows only.
  const some = pass.headRows(cast(on, "f32"));
  if (x.shape.length === 3 && rows === batch && count === some.shape[1]) {
    return greaterEqual(some, 0.5);
  }
  throw new UnsupportedError(
    "ALORA_SITE",
    `aloraInvocationTokens tell tokens apart, and what goes into ${site.path} is no row of them: [${x.shape}]. Leave it out of targetModules.`,
    { path: site.path },
  );
}
