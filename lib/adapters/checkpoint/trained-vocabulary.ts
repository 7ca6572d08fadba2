/**
 * How many tokens an adapter knows.
 *
 * @module
 */
import { CheckpointError } from "../../errors.ts";
import { resizeTokenEmbeddings, tokenRows } from "../../io/resize-token-embeddings.ts";
import { type ModelGraph, resolveTied, withParameters } from "../../model/model-graph.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import { type PeftModel, pristineBase } from "../peft-model.ts";
import { isEqual } from "./state-dict.ts";

/** The number of tokens of a base and of what an adapter's file holds for its embeddings and head. */
export interface Vocabularies {
  /** Of the base. */
  readonly base: number;
  /** Of the file; as the base where it holds nothing that tells. */
  readonly adapter: number;
}

/**
 * A model that an adapter's tensors fit, and those that belong to the adapter. A base without other
 * adapters is resized where the file has an embedding or a head for more tokens, and takes over tables
 * that lie in the file beside trained rows of them, as PEFT loads them into it.
 *
 * @throws {CheckpointError} `ADAPTER_VOCABULARY` with `strict`, where the vocabularies differ and the
 * base stays as it is.
 */
export async function fitVocabulary(
  model: PeftModel,
  tensors: ReadonlyMap<string, Tensor>,
  { name, strict, lowMemory }: {
    readonly name: string;
    readonly strict: boolean;
    readonly lowMemory: boolean;
  },
): Promise<{
  readonly model: PeftModel;
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly vocabulary: Vocabularies;
}> {
  const old = pristineBase(model), vocabulary = vocabulariesOf(old, tensors);
  const isFirst = model.adapters.size === 0;
  const grows = vocabulary.adapter > vocabulary.base && isFirst;
  if (strict && !grows && vocabulary.adapter !== vocabulary.base) {
    throw new CheckpointError(
      "ADAPTER_VOCABULARY",
      `${name} holds an embedding or a head for ${vocabulary.adapter} tokens, and the model has ` +
        `${vocabulary.base}. Load it onto a base that was resized before: ` +
        `resizeTokenEmbeddings(base, ${vocabulary.adapter}).`,
      { ...vocabulary },
    );
  }
  const resized = grows ? resizeTokenEmbeddings(old, vocabulary.adapter) : old;
  const others = new Map(tensors), tables = new Map<string, Tensor>();
  for (const [key, table] of tensors) {
    const path = key.match(TABLE)?.[1], owner = resolveTied(resized, `${path}.weight`);
    const own = resized.parameters.get(owner);
    if (own?.shape.join() !== table.shape.join()) continue;
    const same = await isEqual(own, table);
    if (!same && !isFirst) continue;
    others.delete(key);
    if (same) continue;
    // Unless it is to stay in its file, that may change afterwards.
    const { shape, dtype } = table;
    tables.set(owner, lowMemory ? table : tensor(await table.data(), { shape, dtype }));
  }
  const base = withParameters(resized, tables);
  return { model: base === old ? model : { ...model, base }, tensors: others, vocabulary };
}

/** Where a file has the table that rows of are trained. */
const TABLE = /^(?:base_model\.model\.)?(.+)\.token_adapter\.base_layer\.weight$/;

/** How a file calls the whole weight of a layer. */
const WHOLE = /^((modules_to_save(\.\w+)?|original_module|(token_adapter\.)?base_layer)\.)?weight$/;

/** Compares the vocabularies of a base and of an adapter's tensors. */
function vocabulariesOf(
  base: ModelGraph,
  tensors: ReadonlyMap<string, Tensor>,
): Vocabularies {
  const { tokens, names } = tokenRows(base);
  const paths = new Map([...base.sites].filter(([path]) => names.includes(`${path}.weight`)));
  const found = new Set<number>();
  for (const [key, { shape }] of tensors) {
    for (const [path, { kind }] of paths) {
      const [, leaf] = `.${key}`.split(`.${path}.`);
      if (leaf === undefined || shape.length !== 2) continue;
      if (/^lora_embedding_A\b/.test(leaf)) found.add(shape[1]);
      else if (/^lora_B\b/.test(leaf) && kind === "linear") found.add(shape[0]);
      else if (WHOLE.test(leaf)) found.add(shape[0]);
    }
  }
  const [adapter = tokens] = found;
  return { base: tokens, adapter: found.size === 1 ? adapter : tokens };
}
