/**
 * What a run must have in common with the one that it goes on with, so that it goes on to the same
 * losses.
 *
 * @module
 */
import type { PreparedBatch } from "../adapters/batch.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { TrainingError } from "../errors.ts";
import { toPeftJson } from "../methods/peft-json.ts";

/** What a run has learned from, and with what. */
export interface Fingerprint {
  /** Digest of all batches so far, in their order; empty before the first. */
  readonly data: string;
  /** Batches of an optimizer step. */
  readonly gradientAccumulation: number;
  /** The config of each active adapter, as PEFT names its fields. */
  readonly adapters: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

/** The fingerprint of a run that has not begun. */
export function newFingerprint(model: AnyModel, gradientAccumulation: number): Fingerprint {
  const active = model.type === "peft" ? model.active : [];
  return {
    data: "",
    gradientAccumulation,
    adapters: Object.fromEntries(active.map((name) => {
      const { config, method } = (model as AnyModel & { type: "peft" }).adapters.get(name)!;
      return [name, JSON.parse(toPeftJson(config, { schema: method.config }))];
    })),
  };
}

/** The digest of the data with one more batch. */
export async function digestWith(digest: string, batch: PreparedBatch): Promise<string> {
  const { run: { ids, positions, keySegments, parts }, labels } = batch;
  const pieces: BlobPart[] = [digest, `${batch.batch} ${batch.length}`];
  for (const numbers of [ids, positions, keySegments]) pieces.push(numbers as BlobPart);
  for (const [name, part] of Object.entries({ ...parts, ...labels })) {
    pieces.push(name, await part.data() as BlobPart);
  }
  const bytes = await new Blob(pieces).arrayBuffer();
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/**
 * Refuses to go on with a run of other data, or with another adapter.
 *
 * @param recorded The checkpoint's.
 * @param now This run's, with the digest of as many batches.
 * @throws {TrainingError} `RESUME_MISMATCH`, with everything that differs.
 */
export function checkFingerprint(
  recorded: Fingerprint,
  now: Fingerprint,
  at: { readonly folder: string; readonly batches: number },
): void {
  const differs: string[] = [];
  if (recorded.gradientAccumulation !== now.gradientAccumulation) {
    differs.push(
      `gradientAccumulation was ${recorded.gradientAccumulation} and is ${now.gradientAccumulation}`,
    );
  } else if (recorded.data !== now.data) {
    differs.push(
      `the ${at.batches} batches that were learned from are not the first ${at.batches} of this data, ` +
        "be it for their text, order, number of rows or length",
    );
  }
  const [before, after] = [recorded, now].map(({ adapters }) => Object.keys(adapters).join(", "));
  if (before !== after) {
    differs.push(`the active adapters were ${before || "none"} and are ${after || "none"}`);
  } else {
    for (const [name, config] of Object.entries(now.adapters)) {
      for (const [field, value] of Object.entries(config)) {
        const [was, is] = [recorded.adapters[name][field], value].map((x) => JSON.stringify(x));
        if (was !== is) differs.push(`${field} of the adapter ${name} was ${was} and is ${is}`);
      }
    }
  }
  if (differs.length === 0) return;
  throw new TrainingError(
    "RESUME_MISMATCH",
    `The run of ${at.folder} cannot go on like this: ${
      differs.join("; ")
    }. Resume with what it was started with, ` +
      "or with resumeAnyway where the change is meant.",
    { differs },
  );
}
