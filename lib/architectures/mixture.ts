/**
 * Mixtures of experts: feed forwards of which each token goes through a few, that a router chooses
 * (Shazeer et al., 2017, arXiv:1701.06538; Jiang et al., 2024, arXiv:2401.04088).
 *
 * @module
 */
import type { ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { multiply, pick, type Weight } from "../model/weight.ts";
import { broadcast } from "../ops/broadcast.ts";
import { cast } from "../ops/cast.ts";
import { add, and, div, equal, greater, less, mul, or, sigmoid } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { softmax } from "../ops/softmax.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import type { Activation } from "./activations.ts";
import { configReader, RATE } from "./config-reader.ts";
import { type FeedForward, feedForward } from "./feed-forward.ts";
import type { LayerRule } from "./transformer-layer.ts";

/** Which experts there are, and how a token gets to them. */
export interface Mixture {
  /** Number of experts. */
  readonly experts: number;
  /** How many of them a token goes through. */
  readonly chosen: number;
  /** Size between the layers of an expert. */
  readonly intermediate: number;
  /** Whether the shares of those that are chosen sum up to 1, and not those of all. */
  readonly normalized: boolean;
  /** How far training scales what goes in up and down at random. */
  readonly jitter: number;
  /** Whether torch constructs the router after the experts. */
  readonly routerLast?: boolean;
}

/** What a config says about experts, whose size it calls by this name. */
export function readMixture(config: ModelConfig, intermediate: string): Mixture {
  const { size, number, boolean } = configReader(config);
  const experts = size(config.num_local_experts == null ? "num_experts" : "num_local_experts");
  return {
    experts,
    chosen: size("num_experts_per_tok", undefined, experts),
    intermediate: size(intermediate),
    normalized: boolean("norm_topk_prob", false),
    jitter: number("router_jitter_noise", 0, RATE),
  };
}

/**
 * The feed forward of each layer: that of most, or experts and perhaps one of size `shared` beside
 * them.
 */
export function mixtureOf(
  mixtureAt: (layer: number) => Mixture | null,
  shared?: number,
): LayerRule["feedForward"] {
  return (m, c, { names, layer }) => {
    const experts = mixtureAt(layer), { hidden, activation } = c, at = m.at(names.at!);
    if (!experts) return feedForward(m, c, { names, layer });
    const routed = mixture(at, { ...experts, hidden, activation, layer });
    if (!shared) return routed;
    const place = { names: { ...names, at: "shared_expert" }, layer };
    const beside = feedForward(at, { ...c, inner: shared }, place);
    const gate = at.linear("shared_expert_gate", { in: hidden, out: 1 }, { bias: false });
    return (x, pass) => add(routed(x, pass), mul(sigmoid(gate(x)), beside(x, pass)));
  };
}

/** The modules of a mixture, and how they run. */
function mixture(
  m: Modules,
  c: Mixture & { readonly hidden: number; readonly activation: Activation; readonly layer: number },
): FeedForward {
  const { experts, chosen, intermediate, hidden, jitter } = c;
  const router = () => m.at("gate").weight("weight", [experts, hidden]);
  const early = c.routerLast ? undefined : router();
  const at = m.at("experts");
  const opening = at.weight("gate_up_proj", [experts, 2 * intermediate, hidden]);
  const closing = at.weight("down_proj", [experts, hidden, intermediate]);
  const gate = early ?? router();
  /** Rows [N or 1, R, D] through each of N experts: [N, R, D]. */
  const through = (x: Value, of: (weight: () => Weight) => Weight): Value => {
    const both = multiply(x, of(opening), { transposeB: true });
    const half = (number: number) =>
      sliceAxis(both, { axis: 2, start: number * intermediate, size: intermediate });
    return multiply(mul(c.activation(half(0)), half(1)), of(closing), { transposeB: true });
  };
  return (given, pass) => {
    const flat = reshape(given, [-1, hidden]), { graph, shape: [tokens] } = flat;
    const x = pass.training && jitter
      ? mul(flat, add(mul(pass.noise(`router.${c.layer}`, flat.shape), 2 * jitter), 1 - jitter))
      : flat;
    const shares = softmax(multiply(x, gate(), { transposeB: true })), places = placesOf(shares);
    const normal = (w: Value) => c.normalized ? div(w, sum(w, { axes: [1], keepDims: true })) : w;
    // Of many tokens nearly every expert gets some; few bring the weights of theirs together.
    if (2 * tokens * chosen > experts) {
      const weights = normal(mul(shares, cast(less(places, chosen), "f32")));
      const y = through(reshape(x, [1, tokens, hidden]), (weight) => weight());
      const each = mul(y, reshape(transpose(weights), [experts, tokens, 1]));
      return reshape(sum(each, { axes: [0] }), given.shape);
    }
    const isAt = cast(
      equal(reshape(places, [tokens, 1, experts]), iota(graph, [1, chosen, 1], { axis: 1 })),
      "f32",
    );
    const ofPlace = (x: Value) => sum(mul(isAt, x), { axes: [2] });
    const weights = normal(ofPlace(reshape(shares, [tokens, 1, experts])));
    const numbers = ofPlace(cast(iota(graph, [1, 1, experts], { axis: 2 }), "f32"));
    const ids = reshape(cast(numbers, "i32"), [-1]);
    const rows = broadcast(reshape(x, [tokens, 1, hidden]), [tokens, chosen, hidden]);
    const y = through(reshape(rows, [-1, 1, hidden]), (weight) => pick(weight(), ids));
    const each = mul(reshape(y, rows.shape), reshape(weights, [tokens, chosen, 1]));
    return reshape(sum(each, { axes: [1] }), given.shape);
  };
}

/** Of each row [N, E] the place of each number among the others, the largest first, `i32`. */
function placesOf(x: Value): Value {
  const [rows, count] = x.shape, square = [1, count, count];
  const mine = reshape(x, [rows, count, 1]), other = reshape(x, [rows, 1, count]);
  const earlier = less(iota(x.graph, square, { axis: 2 }), iota(x.graph, square, { axis: 1 }));
  const before = or(greater(other, mine), and(equal(other, mine), earlier));
  return cast(sum(cast(before, "f32"), { axes: [2] }), "i32");
}
