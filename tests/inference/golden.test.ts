/**
 * Classes, tags, answers and embeddings against those of transformers' pipelines; see
 * tests/golden/inference.py.
 */
import { assert, assertEquals } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import type { Device } from "../../lib/device/device.ts";
import { answer } from "../../lib/inference/answer.ts";
import { classify } from "../../lib/inference/classify.ts";
import { embed } from "../../lib/inference/embed.ts";
import { tag } from "../../lib/inference/tag.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { setTokenizerSource } from "../../lib/io/model-tokenizer.ts";
import { openCheckpoint } from "../../lib/io/checkpoint.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import answers from "../golden/inference/answers.json" with { type: "json" };
import others from "../golden/inference/cases.json" with { type: "json" };

const FOLDER = new URL("../golden/inference/", import.meta.url).pathname;
/** Scores, and elements of vectors as a share of the largest. */
const BOUND = 2e-5;

interface Case {
  readonly verb: string;
  readonly model: string;
  readonly adapted: boolean;
  readonly options: Readonly<Record<string, unknown>>;
  readonly given: readonly unknown[];
  readonly results: readonly unknown[];
  readonly problem?: string | null;
}

type Result = Readonly<Record<string, string | number>>;

const CASES = [...others.cases, ...answers.cases] as unknown as readonly Case[];

async function modelOf({ model: name, adapted, problem }: Case, device: Device): Promise<AnyModel> {
  const base = await loadModel(FOLDER + name, { device });
  const config = { ...base.config, ...(problem !== undefined && { problem_type: problem }) };
  setTokenizerSource(config, await openCheckpoint(FOLDER + name));
  const model = { ...base, config };
  return adapted ? await loadAdapter(model, `${FOLDER}${name}/adapter`) : model;
}

/** UTF-16 positions as characters, which Python counts. */
function characters(text: string, at: number): number {
  return [...text.slice(0, at)].length;
}

const VERBS: Readonly<
  Record<string, (model: AnyModel, one: Case) => Promise<readonly unknown[]>>
> = {
  classify: (model, { given, options }) =>
    classify(
      model,
      given.map((one) => {
        if (typeof one === "string") return one;
        const { text, text_pair: pair } = one as { text: string; text_pair: string };
        return { text, pair };
      }),
      options,
    ),
  async tag(model, { given, options }) {
    const texts = given.map((one) => typeof one === "string" ? one : { text: one as string[] });
    const found = await tag(model, texts, options);
    return found.map((entities, i) => {
      const whole = [given[i]].flat().join(" ");
      return entities.map(({ entity, score, start, end, index }) => ({
        [index === undefined ? "entity_group" : "entity"]: entity,
        score,
        start: characters(whole, start),
        end: characters(whole, end),
        ...(index !== undefined && { index }),
      }));
    });
  },
  async answer(model, { given, options }) {
    const questions = given as readonly { question: string; context: string }[];
    const found = await answer(model, questions, options);
    return found.map((all, i) =>
      all.map((one) => {
        const { context } = questions[i];
        assertEquals(context.slice(one.start, one.end), one.answer);
        return {
          ...one,
          start: characters(context, one.start),
          end: characters(context, one.end),
        };
      })
    );
  },
  embed: (model, { given, options }) => embed(model, given as readonly string[], options),
};

/** In later windows of transformers, the first token keeps the space before it. */
function withoutSpace(result: unknown, given: unknown): unknown {
  if (!Array.isArray(result)) return result;
  const { context = given } = given as { readonly context?: string };
  const text = [...[context].flat().join(" ")];
  return result.map((one) =>
    text[one.start] === " " && one.end > one.start
      ? { ...one, start: one.start + 1, ...(one.answer && { answer: one.answer.slice(1) }) }
      : one
  );
}

function assertAlike(found: unknown, expected: unknown, what: string): void {
  if (found instanceof Float32Array) {
    const want = expected as readonly number[];
    const largest = Math.max(...want.map(Math.abs));
    const apart = Math.max(...want.map((x, i) => Math.abs(x - found[i]))) / largest;
    assert(found.length === want.length && apart < BOUND, `${what}: ${apart} of the largest`);
    return;
  }
  // Of entities in several windows that stand for nothing, transformers has some twice.
  const [all, want] = ([found, expected] as readonly (readonly Result[])[])
    .map((list) => list.filter(({ start, end }) => start === undefined || start !== end));
  const facts = (one: Result) => {
    const { score: _score, word: _word, ...others } = one;
    return others;
  };
  assertEquals(all.map(facts), want.map(facts), what);
  all.forEach(({ score }, i) => {
    const apart = Math.abs(Number(score) - Number(want[i].score));
    assert(apart < BOUND * Math.max(1, Math.abs(Number(score))), `${what}, ${i}: ${apart} apart`);
  });
}

for (const one of CASES) {
  const { verb, model: name, adapted, options, problem, given, results } = one;
  const kind = typeof given[0] === "string" ? "texts" : "others";
  const what = [verb, name, adapted ? "adapted" : "base", kind, JSON.stringify(options), problem];
  testOnceOnWebGpu(what.join(" "), async (device) => {
    const model = await modelOf(one, device);
    const run = (part: Case) => VERBS[verb](model, part);
    const together = await run(one);
    const wanted = results.map((result, i) => withoutSpace(result, given[i]));
    together.forEach((result, i) => assertAlike(result, wanted[i], `${what.join(" ")}: ${i}`));
    const alone = await run({ ...one, given: given.slice(1, 2) });
    assertAlike(alone[0], wanted[1], `${what.join(" ")}: alone`);
  });
}
