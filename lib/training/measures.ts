/**
 * What is measured of answers and of written texts, for which outputs and labels alone are not
 * enough.
 *
 * @module
 */
import type { AnyModel } from "../adapters/peft-model.ts";
import { rowsOf } from "../tasks/classes.ts";
import { answerScores } from "../tasks/metrics/answer-scores.ts";
import { bleuScore, rougeScores } from "../tasks/metrics/text-scores.ts";
import type { EvaluatedBatch, HostPart } from "../tasks/objective.ts";
import type { Measure } from "./evaluate.ts";
import type { AnswerWindow, TokenizedExample } from "./row-rule.ts";

/** Tokens of an answer at most. */
const LONGEST_ANSWER = 30;

/**
 * Measures exact matches and F1 of answers, as SQuAD does: of each question the best span of all
 * windows on its context counts, and none where the windows' score for that is higher, if there are
 * questions without an answer.
 *
 * @param examples The examples, in the order of the batches that are evaluated on.
 *
 * @example
 * ```ts
 * import {
 *   byteTokenizerFiles, createModel, evaluate, loadTokenizer, measureAnswers, padExamples, tokenizeData,
 * } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "bert", vocab_size: 256, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2,
 * }, { device: "cpu", taskType: "QUESTION_ANS" });
 * const answers = { text: ["London"], answer_start: [16] };
 * const rows = [{ question: "Where?", context: "Ada was born in London.", answers }];
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const { examples } = tokenizeData(rows, { tokenizer, model });
 * const { metrics } = await evaluate(model, padExamples(examples, { batchSize: 8 }), {
 *   metrics: measureAnswers(examples),
 * });
 * console.log(Object.keys(metrics)); // ["exactMatch", "f1"]
 * model.device[Symbol.dispose]();
 * ```
 */
export function measureAnswers(examples: readonly TokenizedExample[]): Measure {
  return {
    outputs: ["startLogits", "endLogits"],
    measure(batches) {
      const scores = (name: string) => batches.flatMap((batch) => ownRows(batch, name));
      const [starts, ends] = [scores("startLogits"), scores("endLogits")];
      const found = new Map<number, Found>();
      for (const [i, start] of starts.entries()) {
        const { window } = examples[i];
        if (!window) continue;
        const one = bestSpan(start, ends[i], window);
        const known = found.get(window.row);
        found.set(window.row, {
          ...(known && known.score >= one.score ? known : one),
          none: Math.min(known?.none ?? Infinity, one.none),
          answers: window.answers,
        });
      }
      const all = [...found.values()], hasNone = all.some(({ answers }) => !answers.length);
      return {
        ...answerScores(
          all.map(({ text, score, none }) => hasNone && none > score ? "" : text),
          all.map(({ answers }) => answers),
        ),
      };
    },
  };
}

/** The best answer to a question so far. */
interface Found {
  readonly text: string;
  readonly score: number;
  readonly none: number;
  readonly answers: readonly string[];
}

/** An output's rows, without virtual tokens. */
function ownRows({ outputs, virtual }: EvaluatedBatch, name: string): HostPart["data"][] {
  return rowsOf(outputs[name]).map(({ data }) => data.subarray(virtual));
}

function bestSpan(
  start: HostPart["data"],
  end: HostPart["data"],
  { offsets, context, answers, none }: AnswerWindow,
): Found {
  let best = -Infinity, text = "";
  offsets.forEach((from, i) => {
    for (let k = i; from && k < Math.min(i + LONGEST_ANSWER, offsets.length); k++) {
      const to = offsets[k];
      if (!to || start[i] + end[k] <= best) continue;
      best = start[i] + end[k];
      text = context.slice(from[0], to[1]);
    }
  });
  return { text, score: best, none: start[none] + end[none], answers };
}

/**
 * Measures ROUGE and BLEU of what a model writes for texts.
 *
 * @param examples The examples that are evaluated on.
 * @param write Has the model write for the tokens of texts; gives the texts that it writes.
 *
 * @example
 * ```ts
 * import { measureTexts, type TokenizedExample } from "@graft/peft";
 * const examples: TokenizedExample[] = [
 *   { ids: [3, 4], labels: [5, 1], labelsOf: "decoder", target: "the cat sat" },
 * ];
 * const { measure } = measureTexts(examples, () => ["the cat sat"]);
 * const model = () => Promise.reject(new Error("nothing is written here"));
 * console.log((await measure([], model)).rouge2); // 1
 * ```
 */
export function measureTexts(
  examples: readonly TokenizedExample[],
  write: (
    sources: readonly (readonly number[])[],
    model: () => AnyModel | Promise<AnyModel>,
  ) => readonly string[] | Promise<readonly string[]>,
): Measure {
  return {
    async measure(_, model) {
      const written = await write(examples.map(({ ids }) => ids), model);
      const targets = examples.map(({ target = "" }) => target);
      return { ...await rougeScores(written, targets), bleu: bleuScore(written, targets) };
    },
  };
}
