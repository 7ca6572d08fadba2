/**
 * Attention that compares what tokens say with how far they are from one another, both ways (He et
 * al., 2020, arXiv:2006.03654).
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { ArchitecturePass } from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import { constant } from "../ops/constant.ts";
import { add, mul } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { reshape } from "../ops/reshape.ts";
import { pad, sliceAxis } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import type { AttentionLayer, AttentionNames, AttentionRule } from "./attention-layer.ts";
import { distanceRow, type Distances } from "./deberta-distances.ts";
import { isToken } from "./layers.ts";
import { fusedPart, joinHeads, splitHeads } from "./split-heads.ts";

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
    readonly distances: Distances;
    table(pass: ArchitecturePass): Value;
  },
): AttentionLayer {
  const { hidden, heads, headSize } = c, { distances: d, names, table } = of, at = m.at(names.at);
  const self = at.at(names.self!), sizes = { in: hidden, out: heads * headSize };
  const attend = self.attention({ features: hidden, heads, headSize });
  // The first version has one layer for queries, keys and values, and biases apart.
  const { qkv } = names;
  const biases = qkv ? ["q_bias", "v_bias"].map((name) => self.parameter(name, [sizes.out])) : [];
  const fused = qkv ? at.linear(qkv, { in: hidden, out: 3 * sizes.out }, { bias: false }) : null;
  const apart = qkv ? [] : [names.q, names.k, names.v].map((name) => at.linear(name!, sizes));
  const [q, k, v] = (["q", "k", "v"] as const).map((part, i) => (x: Value) => {
    if (!fused) return splitHeads(apart[i](x), heads);
    const y = fusedPart(fused(x), part, { heads, keyHeads: heads, groups: heads });
    return part === "k" ? y : add(y, splitHeads(biases[i / 2](), heads));
  });
  const placed = (name: string, bias: boolean, shared: Layer) =>
    d.shared ? shared : self.linear(name, sizes, { bias });
  const [keyName, queryName] = qkv
    ? ["pos_proj", "pos_q_proj"]
    : ["pos_key_proj", "pos_query_proj"];
  const keysOf = d.byQuery ? placed(keyName, !qkv, apart[1]) : undefined;
  const queriesOf = d.byKey ? placed(queryName, true, apart[0]) : undefined;
  const out = at.linear(names.output, { in: heads * headSize, out: hidden });
  const scale = 1 / Math.sqrt(headSize * d.parts);
  return {
    run(pass, x) {
      // Queries of padding come to nothing, so that it sees the mean of all there is.
      const seen = isToken(pass), [b, t] = x.shape;
      const queries = mul(q(x), reshape(seen, [b, t, 1, 1])), keys = k(x);
      // What tokens [B, T, H, D] and distances from 1 − T to T − 1 have to do with each other; `sign`
      // says which of the two a distance is counted from.
      const scores = (tokens: Value, project: (x: Value) => Value, sign: 1 | -1) => {
        const rows = Array.from(
          { length: 2 * t - 1 },
          (_, i) => distanceRow(sign * (i - t + 1), d),
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
        keyValues: (x) => ({ k: k(x), v: v(x) }),
        project: (y) => out(joinHeads(y)),
        causal: false,
        paddingAttends: false,
        scale,
        bias: (distance) => {
          if (terms.length && distance.shape[1] !== t) {
            throw new UnsupportedError(
              "DEBERTA_PREFIX",
              "A deberta model knows no distance to keys and values that stand before the tokens. Use another method than prefixes.",
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
