/**
 * The errors that this library throws. Each message says what was tried, what was found and what to
 * do.
 *
 * @module
 */

/** What every error of this library extends; `code` is stable and safe to switch on. */
export class GraftError extends Error {
  /** A stable, machine-readable name such as `"TARGET_NOT_FOUND"`. */
  readonly code: string;
  /** Facts behind the message (names asked for, names found, offsets …). */
  readonly details: Readonly<Record<string, unknown>>;

  /** Makes an error with a stable code, a message, the facts behind it and perhaps its `cause`. */
  constructor(
    code: string,
    message: string,
    details: Readonly<Record<string, unknown>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
    this.details = details;
  }
}

/** A value is unacceptable although its type is right (Python's `ValueError`). */
export class ValueError extends GraftError {}

/**
 * A config file or a config argument is not valid: unknown or ill-typed fields, settings that
 * contradict.
 */
export class ConfigError extends ValueError {}

/** A pattern of target modules matches nothing, or matches what cannot be adapted. */
export class TargetError extends ValueError {}

/** An argument is of the wrong type altogether (Python's and JavaScript's `TypeError`). */
export class ArgumentTypeError extends TypeError {
  /** A stable, machine-readable name, as {@link GraftError.code}. */
  readonly code: string;
  /** Facts behind the message, as {@link GraftError.details}. */
  readonly details: Readonly<Record<string, unknown>>;

  /** Makes an error with a stable code, a message and the facts behind it. */
  constructor(code: string, message: string, details: Readonly<Record<string, unknown>> = {}) {
    super(message);
    this.name = "ArgumentTypeError";
    this.code = code;
    this.details = details;
  }
}

/** Shapes or dtypes that do not fit an operation. */
export class ShapeError extends ValueError {}

/** A file is damaged, incomplete or not what its name says. */
export class FileError extends GraftError {}

/** Weights in a checkpoint and the model they are loaded into do not fit together. */
export class CheckpointError extends GraftError {}

/** A device is missing, lost, out of memory, or refused a program. */
export class DeviceError extends GraftError {}

/** Training stopped: a loss is not finite, data is empty, a resume does not fit. */
export class TrainingError extends GraftError {}

/** A method cannot do what was asked (merge, mixed batch, this kind of layer). */
export class UnsupportedError extends GraftError {}

/**
 * The names nearest to `name` among `known`, best first, for "did you mean" hints.
 *
 * @param name What was asked for.
 * @param known What exists.
 * @param count How many to return at most.
 */
export function nearestNames(name: string, known: Iterable<string>, count = 3): string[] {
  if (name.length > LONGEST_NAME) return [];
  const names = [...new Set(known)].filter((k) => k.length <= LONGEST_NAME);
  const scored = names.map((k) => ({ k, d: editDistance(name, k) }));
  scored.sort((a, b) => a.d - b.d || (a.k < b.k ? -1 : 1));
  const limit = Math.max(3, Math.ceil(name.length * 0.6));
  const begins = name.slice(0, 3).toLowerCase();
  const alike = ({ d, k }: { readonly d: number; readonly k: string }) =>
    d <= limit || k.includes(name) || (begins.length === 3 && k.toLowerCase().startsWith(begins));
  return scored.filter(alike).slice(0, count).map((s) => s.k);
}

/** Those names as messages show them after a name that does not exist: " (nearest: rank)". */
export function nearestHint(name: unknown, known: Iterable<string>, count?: number): string {
  const near = typeof name === "string" ? nearestNames(name, known, count) : [];
  return near.length ? ` (nearest: ${near.join(", ")})` : "";
}
/** What is longer is no name that anybody has misspelt. */
const LONGEST_NAME = 300;

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      row[j] = Math.min(
        previous[j] + 1,
        row[j - 1] + 1,
        previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    }
    previous = row;
  }
  return previous[b.length];
}
