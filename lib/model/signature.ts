/**
 * What functions of a model take and give, as data for tools.
 *
 * @module
 */

/** An input of a function, or a field of what it gives. */
export interface ParameterSignature {
  /** Its name. */
  readonly name: string;
  /** Its TypeScript type, such as `TokenBatch`. */
  readonly type: string;
  /** Whether it can be left out, or may be absent. */
  readonly optional: boolean;
  /** What it is: shape, range, default. */
  readonly doc: string;
}

/** What a function takes and gives. */
export interface FunctionSignature {
  /** Its name. */
  readonly name: string;
  /** What it does. */
  readonly doc: string;
  /** What it takes beside the model, in order. */
  readonly parameters: readonly ParameterSignature[];
  /** What it gives. */
  readonly returns: {
    /** Its TypeScript type. */
    readonly type: string;
    /** What is in it. */
    readonly fields: readonly ParameterSignature[];
  };
  /** All of this as TypeScript, with the docs as comments. */
  readonly text: string;
}

/**
 * A signature with its text.
 *
 * @param signature The signature without it.
 * @param of Names: of the record whose fields the parameters are, but for so many `positional` ones
 * before it, and of the interface that what it gives follows.
 */
export function withText(
  signature: Omit<FunctionSignature, "text">,
  of: { readonly record: string; readonly positional?: number; readonly returned: string },
): FunctionSignature {
  const { name, doc, parameters, returns } = signature;
  const { record, positional = 0, returned } = of;
  const fields = parameters.slice(positional);
  const optional = fields.every((field) => field.optional) ? "?" : "";
  const list = [
    "model: AnyModel",
    ...parameters.slice(0, positional).map(declaration),
    `${record}${optional}: ${block(fields)}`,
  ];
  return {
    ...signature,
    text: `${comment(doc)}\nfunction ${name}(${list.join(", ")}): ${returns.type};\n\n` +
      `interface ${returned} ${block(returns.fields)}`,
  };
}

function declaration({ name, type, optional }: ParameterSignature): string {
  return `${name}${optional ? "?" : ""}: ${type}`;
}

function block(fields: readonly ParameterSignature[]): string {
  const lines = fields.map((field) => `  ${comment(field.doc)}\n  ${declaration(field)};\n`);
  return `{\n${lines.join("")}}`;
}

function comment(doc: string): string {
  return `/** ${doc} */`;
}
