/**
 * Learning embeddings by telling texts that belong together from the others of a batch.
 *
 * @module
 */
import { UnsupportedError, ValueError } from "../errors.ts";
import { mul } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { sliceAxis } from "../ops/slice.ts";
import { checkOptions, oneOf, POSITIVE, wholeFrom } from "../options.ts";
import { tensor } from "../tensor/tensor.ts";
import { classLoss, rowsOf } from "./classes.ts";
import type { Objective, Values } from "./objective.ts";
import { normalized, pool, type Pooling, POOLINGS } from "./pooling.ts";

/** How embeddings are compared. */
export interface ContrastiveOptions {
  /** Factor of the cosines, 20 by default. */
  readonly scale?: number;
  /** What stands for a text, the mean of its tokens by default. */
  readonly pooling?: Pooling;
  /**
   * How many texts belong together, 2 by default: an anchor, its positive and any number of hard
   * negatives. A batch holds all anchors first, then all positives, then the negatives.
   */
  readonly columns?: number;
}

/**
 * Cross-entropy of finding the positive of each anchor among the positives and hard negatives of the
 * whole batch, by cosine: the multiple negatives ranking loss of sentence-transformers (Henderson et
 * al., https://arxiv.org/abs/1705.00652). For models that give `lastHiddenState`; a larger batch is a
 * harder task, so parts of one that are added up are not the same as the whole.
 *
 * @throws {ValueError} `OBJECTIVE_OPTION`.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, contrastive, createModel, encodeInputs } from "@graft/peft";
 * import { getPeftModel, loadTokenizer, loraConfig, padRows, train } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "bert", vocab_size: 256, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2,
 * }, { device: "cpu", taskType: "FEATURE_EXTRACTION" });
 * using _device = base.device;
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const [anchors, positives] = [["ship", "hill"], ["boat", "slope"]];
 * const batch = padRows(encodeInputs([...anchors, ...positives], { tokenizer }), { padId: 0 });
 * const model = getPeftModel(base, loraConfig({ taskType: "FEATURE_EXTRACTION" }));
 * const { history } = await train(model, [batch], {
 *   objective: contrastive(), learningRate: 1e-2, steps: 1,
 * });
 * console.log(history[0].loss > 0); // true
 * ```
 */
export function contrastive(options: ContrastiveOptions = {}): Objective {
  checkOptions(options, { scale: POSITIVE, pooling: oneOf(POOLINGS), columns: wholeFrom(2) }, {
    code: "OBJECTIVE_OPTION",
    of: "contrastive",
  });
  const { scale = 20, pooling = "mean", columns = 2 } = options;
  /** Scaled cosines of each anchor and all others, and which of those is its positive. */
  const scores = ({ lastHiddenState }: Values, { tokens }: Values) => {
    const rows = normalized(pool(lastHiddenState, tokens, pooling)), n = rows.shape[0] / columns;
    const part = (start: number, size: number) => sliceAxis(rows, { axis: 0, start, size });
    const cosines = matmul(part(0, n), part(n, rows.shape[0] - n), { transposeB: true });
    return [mul(cosines, scale), iota(rows.graph, [n], { axis: 0 })] as const;
  };
  return {
    name: "contrastive",
    outputs: ["lastHiddenState"],
    inputs: () => [],
    prepare({ rows, length, virtual, segments, packed }) {
      if (packed) {
        throw new UnsupportedError(
          "OBJECTIVE",
          "The contrastive objective needs a text in each row, and this batch is packed.",
        );
      }
      if (rows % columns !== 0 || rows / columns * (columns - 1) < 2) {
        throw new ValueError(
          "CONTRASTIVE_ROWS",
          `A batch needs ${columns} rows for each anchor, and two texts at least to choose from: first all anchors, then all positives${
            columns > 2 ? ", then the negatives" : ""
          }; found ${rows} rows.`,
          { rows, columns },
        );
      }
      const whole = virtual + length, tokens = new Int32Array(rows * whole).fill(1);
      for (let row = 0; row < rows; row++) {
        tokens.set(segments.subarray(row * length, (row + 1) * length), row * whole + virtual);
      }
      return {
        labels: { tokens: tensor(tokens, { shape: [rows, whole] }) },
        count: rows / columns,
      };
    },
    loss: (outputs, labels) => classLoss(...scores(outputs, labels)),
    measured: (outputs, labels) => ({ scores: scores(outputs, labels)[0] }),
    metrics(batches) {
      const ranks = batches.flatMap(({ outputs }) =>
        rowsOf(outputs.scores).map(({ data }, own) => data.filter((x) => x > data[own]).length)
      );
      const mean = (of: (rank: number) => number) =>
        ranks.reduce((sum, rank) => sum + of(rank), 0) / ranks.length;
      return { accuracy: mean((rank) => rank ? 0 : 1), mrr: mean((rank) => 1 / (rank + 1)) };
    },
  };
}
