/** What an assertion throws when it does not hold. */
export class AssertionError extends Error {
  /** @param message what did not hold. @param options the cause, when another error led here. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AssertionError";
  }
}

/** What follows a message: the caller's own, or a full stop. */
export const suffix = (msg: string | undefined): string => msg ? `: ${msg}` : ".";

/** A value as an error message shows it. */
export const show = (value: unknown): string =>
  Deno.inspect(value, { depth: 6, iterableLimit: 40 });
