/**
 * CAUSAL_LM: texts, prompts with completions and chats as tokens to learn.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { renderChat, renderMarkedChat } from "../io/render-chat.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { rowError, type RowOptions, type RowRule, type TokenizedExample } from "./row-rule.ts";
import { type Content, type Conversation, readRow, type Row } from "./rows.ts";

/** All of a text is learned, of others the completion and the assistant's turns. */
export const causalRows: RowRule = (rows, options) => {
  const { maxLength, longRows, note, tooLong } = options;
  const read = rows.map((row, index): Row => {
    const found = readRow(row);
    if (typeof found === "string") throw rowError(index, options, found);
    return found;
  });
  return (_, index) => {
    const { content, unread, forms } = read[index];
    for (const name of unread) {
      note(index, "UNKNOWN_FIELD", (n) => `The field "${name}" of ${n} is not read.`, name);
    }
    if (forms.length > 1) {
      const [taken, ...others] = forms.map((name) => `"${name}"`);
      const text = (n: string) =>
        `${n}: of ${taken} beside ${others.join(", ")} only ${taken} is learned.`;
      note(index, "TWO_FORMS", text, forms.join());
    }
    if (isEmpty(content)) note(index, "EMPTY", (n) => `${n}: what is learned is an empty text.`);
    const found = tokenize(content, options, index);
    if (found.length > 1) {
      const text = (n: string) =>
        `${n}: an example for each answer, as the template writes earlier ones differently.`;
      note(index, "SPLIT_CHAT", text);
    }
    if (found.some(({ across }) => across)) {
      const text = (n: string) =>
        `${n}: a token holds the end of what is given and the beginning of what is learned, so that generating begins differently.`;
      note(index, "TOKEN_ACROSS", text);
    }
    if (found.some(({ unlike }) => unlike)) {
      const text = (n: string) =>
        `${n}: the template does not begin an answer as its generation prompt does; what comes after they part is learned.`;
      note(index, "OTHER_PROMPT", text);
    }
    const tokenized: TokenizedExample[] = [];
    for (const { ids, labels } of found) {
      if (ids.length > maxLength) {
        tooLong(
          index,
          content.kind === "text" ? "cut into several examples" : "without what is beyond",
        );
        if (longRows !== "cut") continue;
      }
      const end = content.kind === "text" ? ids.length : Math.min(ids.length, maxLength);
      for (let start = 0; start < end; start += maxLength) {
        const piece = {
          ids: ids.slice(start, start + maxLength),
          labels: labels.slice(start, start + maxLength),
        };
        // The first token is predicted by nothing.
        if (!piece.labels.some((label, i) => i > 0 && label !== IGNORED_LABEL)) continue;
        tokenized.push(piece);
      }
    }
    return tokenized;
  };
};

function isEmpty(content: Content): boolean {
  switch (content.kind) {
    case "text":
      return content.text === "";
    case "completion":
      return content.completion === "";
    case "chat":
      return content.messages.some(({ content: said, tool_calls }, i) =>
        content.learned[i] && (said === "" || Array.isArray(said) && said.length === 0) &&
        tool_calls == null
      );
  }
}

interface Marked extends TokenizedExample {
  /** Whether a token begins in what is given and ends in what is learned. */
  readonly across: boolean;
  /** Whether an answer does not begin with what asks for one. */
  readonly unlike?: boolean;
}

function tokenize(content: Content, options: RowOptions, index: number): Marked[] {
  const { tokenizer } = options;
  switch (content.kind) {
    case "text": {
      const ids = ended(tokenizer.encode(content.text), options);
      return [{ ids, labels: ids, across: false }];
    }
    case "completion":
      return [tokenizeCompletion(content, options)];
    case "chat": {
      const { plain } = content;
      if (plain && Object.keys(tokenizer.chatTemplates).length === 0) {
        return [tokenizeCompletion(plain, options)];
      }
      try {
        return tokenizeChat(content, tokenizer);
      } catch (cause) {
        if (!(cause instanceof ValueError)) throw cause;
        const { code, message, details } = cause;
        throw new ValueError(code, `Row ${index + 1}: ${message}`, {
          ...details,
          cause,
          row: index,
        });
      }
    }
  }
}

function ended(ids: readonly number[], options: RowOptions): readonly number[] {
  const { tokenizer: { eosId }, appendEos = true } = options;
  return appendEos && eosId !== undefined && ids[ids.length - 1] !== eosId ? [...ids, eosId] : ids;
}

function tokenizeCompletion(
  { prompt, completion }: Content & { readonly kind: "completion" },
  options: RowOptions,
): Marked {
  const text = prompt + completion;
  const marked = encode(options.tokenizer, text, [[prompt.length, text.length]], {
    addSpecialTokens: true,
  });
  // What is put after the text, by the tokenizer or here, ends the completion.
  const ids = ended(marked.ids, options);
  const last = marked.labels.findLastIndex((label) => label !== IGNORED_LABEL);
  const after = last < 0 ? options.tokenizer.encode(text).length : last + 1;
  return { ...marked, ids, labels: [...marked.labels.slice(0, after), ...ids.slice(after)] };
}

function tokenizeChat(chat: Conversation, tokenizer: Tokenizer): Marked[] {
  const { messages, learned, options } = chat;
  const whole = renderMarkedChat(tokenizer, messages, options);
  if (whole.marksGenerated) {
    const unclear = whole.generated.some(({ message }) => message === undefined);
    if (unclear && messages.some(({ role }, i) => role === "assistant" && !learned[i])) {
      throw new ValueError(
        "CHAT_TEMPLATE",
        "The chat template does not go through the messages in a loop, so it cannot be told which of the parts that it marks belong to the messages that are not to be learned.",
      );
    }
    const spans = whole.generated
      .filter(({ message }) => message === undefined || learned[message])
      .map(({ start, end }) => [start, end] as const);
    return [encode(tokenizer, whole.text, spans, { endsAtFirst: true })];
  }
  const turns = messages.flatMap((_, i) => {
    if (!learned[i]) return [];
    const asked = { ...options, addGenerationPrompt: true };
    const before = renderChat(tokenizer, messages.slice(0, i), asked);
    const after = i + 1 < messages.length
      ? renderChat(tokenizer, messages.slice(0, i + 1), options)
      : whole.text;
    if (after.startsWith(before)) return [{ after, span: [before.length, after.length] as const }];
    // Such as a prompt that opens the reasoning, which the template leaves out of what was said.
    let parting = 0;
    while (after[parting] === before[parting]) parting++;
    const given = renderChat(tokenizer, messages.slice(0, i), options);
    if (!after.startsWith(given) || parting < given.length) {
      throw new ValueError(
        "CHAT_TEMPLATE",
        `The chat template writes what comes before the assistant's turn (message ${
          i + 1
        }) differently once that follows, ` +
          "so it cannot be told which tokens are the assistant's. Give the data as prompt and completion.",
        { message: i },
      );
    }
    return [{ after, span: [parting, after.length] as const, unlike: true }];
  });
  const unlike = turns.some((turn) => "unlike" in turn);
  if (turns.every(({ after }) => whole.text.startsWith(after))) {
    return [{ ...encode(tokenizer, whole.text, turns.map(({ span }) => span)), unlike }];
  }
  return turns.map(({ after, span }) => ({ ...encode(tokenizer, after, [span]), unlike }));
}

/** The ids of a text; those are learned that stand for something between the ends of a span. */
function encode(
  tokenizer: Tokenizer,
  text: string,
  spans: readonly (readonly [number, number])[],
  { addSpecialTokens = false, endsAtFirst = false } = {},
): Marked {
  const { ids, offsets } = tokenizer.encodeWithOffsets(text, { addSpecialTokens });
  const labels = new Array<number>(ids.length).fill(IGNORED_LABEL);
  let across = false;
  for (const [start, end] of spans) {
    const holds = ([from, to]: readonly [number, number]) => from < end && to > start;
    const first = offsets.findIndex(holds);
    if (first < 0) continue;
    across ||= offsets[first][0] < start;
    // Where several tokens spell the last character, transformers takes the first of them only.
    const ends = ([from, to]: readonly [number, number]) => from < end && to >= end;
    const last = endsAtFirst ? offsets.findIndex(ends) : -1;
    const until = last < 0 ? offsets.findLastIndex(holds) : last;
    for (let i = first; i <= until; i++) labels[i] = ids[i];
  }
  return { ids, labels, across };
}
