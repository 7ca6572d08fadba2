/**
 * Attention that compares what tokens say with how far they are from one another, both ways (He et
 * al., 2020, arXiv:2006.03654).
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { ArchitecturePass } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { constant } from "../ops/constant.ts";
import { add, mul } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { pad, sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import type { AttentionLayer, AttentionNames, AttentionRule } from "./attention-layer.ts";
import { isToken } from "./layers.ts";
import { joinHeads, splitHeads } from "./split-heads.ts";

/** How distances take part in scores. */
export interface Distances {
  /** Buckets of distances in one direction. */
  readonly span: number;
  /** Distances up to half as many have a bucket each where there are buckets, others share them. */
  readonly buckets: number;
  /** The largest distance. */
  readonly largest: number;
  /** Whether the projections of tokens serve for distances too. */
  readonly shared: boolean;
  /** Whether queries are compared with distances. */
  readonly byQuery: boolean;
  /** Whether keys are. */
  readonly byKey: boolean;
}

/** The row of the table for a distance: those far away share rows in steps of its logarithm. */
function distanceRow(distance: number, { span, buckets, largest }: Distances): number {
  let place = distance;
  if (buckets > 0 && largest > 0) {
    const middle = Math.floor(buckets / 2), far = Math.abs(distance);
    if (far > middle) {
      // In single precision, as torch computes it.
      const log = (x: number) => Math.fround(Math.log(Math.fround(x)));
      const ratio = Math.fround(log(far / middle) / log((largest - 1) / middle));
      place = Math.sign(distance) *
        (Math.ceil(Math.fround(ratio * (middle - 1))) + middle);
    }
  }
  return Math.min(Math.max(place + span, 0), 2 * span - 1);
}

/**
 * Of scores [.., T, 2T−1] of rows with distances, those [.., T, T] of rows with others: row t takes
 * what it has for the distance of each other row, s − t.
 */
function byDistance(scores: Value): Value {
  const [b, h, t, width] = scores.shape;
  const padded = pad(scores, { low: [0, 0, 0, 0], high: [0, 0, 0, 1] });
  const flat = reshape(padded, [b, h, t * (width + 1)]);
  const shifted = sliceAxis(flat, { axis: 2, start: t - 1, size: t * width });
  return sliceAxis(reshape(shifted, [b, h, t, width]), { axis: 3, start: 0, size: t });
}

/** Declares it; `table` gives the rows of distances of a pass. */
export function disentangledAttention(
  m: Modules,
  c: AttentionRule,
  of: {
    readonly names: AttentionNames;
    readonly distances: Distances | null;
    /** In how many ways distances may count, whether they do or not. */
    readonly kinds: number;
    table(pass: ArchitecturePass): Value;
  },
): AttentionLayer {
  const { hidden, heads, headSize } = c, { distances: d, names, table } = of, at = m.at(names.at);
  const sizes = { in: hidden, out: heads * headSize };
  const attend = at.at(names.self!).attention({ features: hidden, heads, headSize });
  const [q, k, v] = [names.q, names.k, names.v].map((name) => at.linear(name!, sizes));
  const apart = (name: string, is: boolean | undefined, shared: (x: Value) => Value) =>
    !is ? undefined : d!.shared ? shared : at.at(names.self!).linear(name, sizes);
  const keysOf = apart("pos_key_proj", d?.byQuery, k);
  const queriesOf = apart("pos_query_proj", d?.byKey, q);
  const out = at.linear(names.output, { in: heads * headSize, out: hidden });
  const scale = 1 / Math.sqrt(headSize * (1 + of.kinds));
  return {
    run(pass, x) {
      // Queries of padding come to nothing, so that it sees the mean of all there is.
      const seen = isToken(pass), [b, t] = x.shape;
      const queries = splitHeads(mul(q(x), seen), heads), keys = splitHeads(k(x), heads);
      // What tokens [B, T, H, D] and distances from 1 − T to T − 1 have to do with each other; `sign`
      // says which of the two a distance is counted from.
      const scores = (tokens: Value, project: (x: Value) => Value, sign: 1 | -1) => {
        const rows = Array.from(
          { length: 2 * t - 1 },
          (_, i) => distanceRow(sign * (i - t + 1), d!),
        );
        const made = project(table(pass));
        const places = gather(made, constant(x.graph, rows, { dtype: "i32" }));
        const byHead = transpose(reshape(places, [2 * t - 1, heads, headSize]), [1, 0, 2]);
        const all = matmul(transpose(tokens, [0, 2, 1, 3]), byHead, { transposeB: true });
        return mul(byDistance(all), scale);
      };
      const terms = [
        keysOf && scores(queries, keysOf, -1),
        queriesOf && mul(
          transpose(scores(keys, queriesOf, 1), [0, 1, 3, 2]),
          reshape(seen, [b, 1, t, 1]),
        ),
      ].filter((term) => term !== undefined);
      return attend({
        q: queries,
        over: x,
        keyValues: (x) => ({ k: splitHeads(k(x), heads), v: splitHeads(v(x), heads) }),
        project: (y) => out(joinHeads(y)),
        causal: false,
        paddingAttends: false,
        scale,
        bias: (distance) => {
          if (terms.length && distance.shape[1] !== t) {
            throw new UnsupportedError(
              "DEBERTA_PREFIX",
              "A deberta-v2 model knows no distance to keys and values that stand before the tokens. Use another method than prefixes.",
            );
          }
          const none = constant(x.graph, 0, { shape: [1, 1, 1] });
          return terms.reduce((sum, term) => add(sum, term), none);
        },
        dropout: c.dropout.attention,
      });
    },
  };
}
