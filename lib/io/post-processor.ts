/**
 * What a tokenizer puts around texts.
 *
 * @module
 */
import { isObject } from "./json.ts";

/** A part of a row of tokens: tokens that are always there, or those of its first or second text. */
export interface RowPart {
  /** The ids that are put there; none for a text. */
  readonly ids: readonly number[];
  /** Which text goes there, the first (0) or the second (1); none for what is put there. */
  readonly text?: 0 | 1;
  /** The kind of these tokens, as models with `tokenTypeIds` know it. */
  readonly typeId: number;
}

/** How rows of one text and of two are made. */
export interface RowTemplate {
  /** The parts of a row of one text. */
  readonly single: readonly RowPart[];
  /** The parts of a row of two texts. */
  readonly pair: readonly RowPart[];
}

/** A text, the first or the second. */
const text = (which: 0 | 1, typeId: number = which): RowPart => ({ ids: [], text: which, typeId });

/** The template of a `post_processor`; texts alone where it has none. */
export function rowTemplate(
  json: unknown,
  idOf: (token: string) => number | undefined,
): RowTemplate {
  return found(json, (tokens) => tokens.flatMap((token) => idOf(token) ?? [])) ??
    { single: [text(0)], pair: [text(0), text(1)] };
}

function found(
  json: unknown,
  idsOf: (tokens: readonly string[]) => number[],
): RowTemplate | undefined {
  if (!isObject(json)) return undefined;
  const named = (key: "cls" | "sep", typeId = 0): RowPart => ({
    ids: idsOf([(json[key] as [string])[0]]),
    typeId,
  });
  switch (json.type) {
    case "Sequence":
      return (json.processors as readonly unknown[]).map((one) => found(one, idsOf))
        .find((template) => template);
    case "BertProcessing": {
      const single = [named("cls"), text(0), named("sep")];
      return { single, pair: [...single, text(1), named("sep", 1)] };
    }
    case "RobertaProcessing": {
      const single = [named("cls"), text(0), named("sep")];
      return { single, pair: [...single, named("sep"), text(1, 0), named("sep")] };
    }
    case "TemplateProcessing": {
      const special = isObject(json.special_tokens) ? json.special_tokens : {};
      const parts = (key: "single" | "pair") =>
        (json[key] as readonly Piece[]).map(({ Sequence, SpecialToken }): RowPart => {
          const { id, type_id: typeId = 0 } = (Sequence ?? SpecialToken)!;
          if (Sequence) return text(id === "A" ? 0 : 1, typeId);
          const known = special[id];
          const tokens = isObject(known) && Array.isArray(known.tokens) ? known.tokens : [id];
          return { ids: idsOf(tokens.map(String)), typeId };
        });
      return { single: parts("single"), pair: parts("pair") };
    }
    default:
      return undefined;
  }
}

/** One piece of a template as it is written. */
type Piece = Readonly<
  Partial<Record<"Sequence" | "SpecialToken", { readonly id: string; readonly type_id?: number }>>
>;
