/**
 * Which row stands for a text, of those that its tokens have become.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import { cast } from "../ops/cast.ts";
import { add, equal, mul, not } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { reduceMax } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";

/** Of [B, T, D] the first row of each text, [B, D]. */
export function firstRows(h: Value): Value {
  return reshape(sliceAxis(h, { axis: 1, start: 0, size: 1 }), [-1, h.shape[2]]);
}

/** Of [B, T, D] the last row of each text that is `true`, bool [B, T]; the first where none is. */
export function lastRows(h: Value, isMeant: Value | null): Value {
  const [b, t, d] = h.shape, at = iota(h.graph, [b, t], { axis: 1 });
  const tokens = isMeant ? mul(at, cast(isMeant, "i32")) : at;
  const place = cast(reduceMax(cast(tokens, "f32"), { axes: [1] }), "i32");
  return gather(reshape(h, [b * t, d]), add(place, mul(iota(h.graph, [b], { axis: 0 }), t)));
}

/** Which tokens are no padding, bool [B, T]; `null` where there is none. */
export function isText(
  h: Value,
  { config, ids }: { readonly config: ModelConfig; readonly ids: Value },
): Value | null {
  const { pad_token_id: pad } = config, [b, t] = h.shape;
  if (typeof pad !== "number" && b > 1) {
    throw new UnsupportedError(
      "PAD_TOKEN",
      `A ${config.model_type} model finds the end of each text by its padding, and its config has no pad_token_id. ` +
        "Set it in config.json, or run one text at a time.",
    );
  }
  // As transformers, which sees no padding behind virtual tokens.
  return typeof pad !== "number" || ids.shape[1] !== t || pad < 0 ? null : not(equal(ids, pad));
}
