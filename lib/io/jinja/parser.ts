/**
 * Jinja templates as trees.
 *
 * @module
 */
import { lex, type Token, unquote } from "./lexer.ts";
import { Float, TemplateError, type Value } from "./values.ts";

/** Where a node stands in the template. */
interface Place {
  readonly start: number;
  readonly end: number;
}

/** What is given to a call, a filter or a test. */
export interface Arguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
  readonly star?: Expression;
  readonly doubleStar?: Expression;
}

/** An expression. */
export type Expression =
  & Place
  & (
    | { readonly type: "constant"; readonly value: Value }
    | { readonly type: "name"; readonly name: string }
    | { readonly type: "tuple" | "list"; readonly items: readonly Expression[] }
    | { readonly type: "dict"; readonly entries: readonly (readonly [Expression, Expression])[] }
    | { readonly type: "attribute"; readonly object: Expression; readonly name: string }
    | { readonly type: "item"; readonly object: Expression; readonly index: Expression }
    | {
      readonly type: "slice";
      readonly object: Expression;
      readonly bounds: readonly (Expression | undefined)[];
    }
    | { readonly type: "call"; readonly callee: Expression; readonly args: Arguments }
    | {
      readonly type: "filter" | "test";
      readonly name: string;
      /** What is filtered; the text of the block where there is none. */
      readonly operand?: Expression;
      readonly args: Arguments;
    }
    | { readonly type: "unary"; readonly operator: string; readonly operand: Expression }
    | {
      readonly type: "binary" | "logical";
      readonly operator: string;
      readonly left: Expression;
      readonly right: Expression;
    }
    | {
      readonly type: "comparison";
      readonly first: Expression;
      readonly rest: readonly (readonly [string, Expression])[];
    }
    | {
      readonly type: "condition";
      readonly test: Expression;
      readonly yes: Expression;
      readonly no?: Expression;
    }
  );

/** The parameters of a macro or a call block. */
export type Parameters = readonly { readonly name: string; readonly otherwise?: Expression }[];

/** A statement. */
export type Statement =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "output"; readonly value: Expression }
  | {
    readonly type: "if";
    readonly test: Expression;
    readonly body: Body;
    readonly otherwise: Body;
  }
  | {
    readonly type: "for";
    readonly target: Expression;
    readonly items: Expression;
    readonly test?: Expression;
    readonly recursive: boolean;
    readonly body: Body;
    readonly otherwise: Body;
  }
  | { readonly type: "set"; readonly target: Expression; readonly value: Expression }
  | {
    readonly type: "set block";
    readonly target: Expression;
    readonly filter?: Expression;
    readonly body: Body;
  }
  | {
    readonly type: "macro";
    readonly name: string;
    readonly parameters: Parameters;
    readonly body: Body;
  }
  | {
    readonly type: "call block";
    readonly call: Expression & { readonly type: "call" };
    readonly parameters: Parameters;
    readonly body: Body;
  }
  | { readonly type: "filter block"; readonly filter: Expression; readonly body: Body }
  | {
    readonly type: "with";
    readonly values: readonly (readonly [Expression, Expression])[];
    readonly body: Body;
  }
  | { readonly type: "generation"; readonly body: Body }
  | { readonly type: "break" | "continue" };

/** Statements in order. */
export type Body = readonly Statement[];

const CONSTANTS: ReadonlyMap<string, Value> = new Map<string, Value>([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["none", null],
  ["None", null],
]);
const COMPARISONS = ["==", "!=", "<", ">", "<=", ">="];
const NO_ARGUMENTS: Arguments = { positional: [], named: [] };

/**
 * Parses a template.
 *
 * @throws {TemplateError} where it is not one.
 */
export function parse(template: string): { readonly source: string; readonly body: Body } {
  const { source, tokens } = lex(template);
  let at = 0;

  const is = (value: string, ahead = 0) => {
    const token = tokens[at + ahead];
    return (token?.kind === "operator" || token?.kind === "name") && token.value === value;
  };
  const isEnd = () => tokens[at]?.kind === "close";
  const fail = (problem: string): never => {
    const token = tokens[Math.min(at, tokens.length - 1)];
    const line = source.slice(0, token?.start ?? 0).split("\n").length;
    throw new TemplateError(
      `${problem} (line ${line})`,
      source.slice(Math.max(0, (token?.start ?? 0) - 30), (token?.end ?? 0) + 10),
    );
  };
  const take = (): Token => tokens[at++] ?? fail("Unexpected end of template");
  const accept = (value: string) => is(value) && Boolean(take());
  const expect = (value: string) => accept(value) || fail(`Expected "${value}"`);
  const name = () => tokens[at]?.kind === "name" ? take().value : fail("Expected a name");
  const close = () => isEnd() ? void take() : void fail("Expected the end of the tag");
  const here = () => tokens[at]?.start ?? source.length;
  const place = (start: number): Place => ({ start, end: tokens[at - 1].end });

  // Statements

  /** Statements up to a tag with one of these names, which is left to be read. */
  function body(...ends: string[]): Body {
    const statements: Statement[] = [];
    while (at < tokens.length) {
      const token = take();
      if (token.kind === "text") statements.push({ type: "text", text: token.value });
      else if (token.value === "{{") {
        statements.push({ type: "output", value: tuple() });
        close();
      } else {
        if (ends.includes(tokens[at]?.value)) return statements;
        statements.push(statement());
      }
    }
    return ends.length ? fail(`Expected {% ${ends.join(" %} or {% ")} %}`) : statements;
  }
  /** The body of a tag up to the end of the end tag. */
  function block(end: string): Body {
    close();
    const statements = body(end);
    expect(end);
    if (end === "endmacro" && tokens[at]?.kind === "name") take();
    close();
    return statements;
  }
  function statement(): Statement {
    const tag = name();
    switch (tag) {
      case "if":
        return branch();
      case "for":
        return loop();
      case "set":
        return assignment();
      case "macro":
        return { type: "macro", name: name(), parameters: parameters(), body: block("endmacro") };
      case "call": {
        const inside = is("(") ? parameters() : [];
        const call = expression();
        if (call.type !== "call") return fail("Expected a call");
        return { type: "call block", call, parameters: inside, body: block("endcall") };
      }
      case "filter":
        return {
          type: "filter block",
          filter: filters(undefined, name()),
          body: block("endfilter"),
        };
      case "with": {
        const values: [Expression, Expression][] = [];
        while (!isEnd()) {
          if (values.length) expect(",");
          const to = target();
          expect("=");
          values.push([to, expression()]);
        }
        return { type: "with", values, body: block("endwith") };
      }
      case "generation":
        return { type: "generation", body: block("endgeneration") };
      case "break":
      case "continue":
        close();
        return { type: tag };
      default:
        at--;
        return fail(`Unknown tag "${tag}"`);
    }
  }
  function branch(): Statement {
    const test = tuple({ conditions: false });
    close();
    const yes = body("elif", "else", "endif");
    let otherwise: Body = [];
    if (accept("elif")) return { type: "if", test, body: yes, otherwise: [branch()] };
    if (accept("else")) {
      close();
      otherwise = body("endif");
    }
    expect("endif");
    close();
    return { type: "if", test, body: yes, otherwise };
  }
  function loop(): Statement {
    const to = target();
    expect("in");
    const items = tuple({ conditions: false, ends: ["recursive"] });
    const test = accept("if") ? expression() : undefined;
    const recursive = accept("recursive");
    close();
    const inside = body("endfor", "else");
    let otherwise: Body = [];
    if (accept("else")) {
      close();
      otherwise = body("endfor");
    }
    expect("endfor");
    close();
    return { type: "for", target: to, items, test, recursive, body: inside, otherwise };
  }
  function assignment(): Statement {
    const to = target();
    if (accept("=")) {
      const value = tuple();
      close();
      return { type: "set", target: to, value };
    }
    const filter = accept("|") ? filters(undefined, name()) : undefined;
    return { type: "set block", target: to, filter, body: block("endset") };
  }
  /** What is assigned to: names, attributes of namespaces, and tuples of them. */
  function target(): Expression {
    const start = here();
    const one = (): Expression => {
      if (accept("(")) {
        const inner = target();
        expect(")");
        return inner;
      }
      const from = here();
      const plain: Expression = { type: "name", name: name(), ...place(from) };
      return accept(".")
        ? { type: "attribute", object: plain, name: name(), ...place(from) }
        : plain;
    };
    const items = [one()];
    let several = false;
    while (accept(",")) {
      several = true;
      if (is("in") || is("=") || is(")")) break;
      items.push(one());
    }
    return several ? { type: "tuple", items, ...place(start) } : items[0];
  }
  function parameters(): Parameters {
    expect("(");
    const found: { name: string; otherwise?: Expression }[] = [];
    while (!accept(")")) {
      if (found.length) expect(",");
      const parameter = name();
      if (accept("=")) found.push({ name: parameter, otherwise: expression() });
      else if (found.at(-1)?.otherwise) fail("A parameter without default follows one with");
      else found.push({ name: parameter });
    }
    return found;
  }

  // Expressions, from what binds least to what binds most

  function tuple(
    { conditions = true, parenthesised = false, ends = [] }: {
      conditions?: boolean;
      parenthesised?: boolean;
      ends?: readonly string[];
    } = {},
  ): Expression {
    const start = here();
    const items: Expression[] = [];
    let several = false;
    while (!isEnd() && !is(")") && !is("in") && !ends.some((end) => is(end))) {
      items.push(conditions ? expression() : either());
      if (!accept(",")) break;
      several = true;
    }
    if (items.length === 1 && !several) return items[0];
    if (items.length === 0 && !parenthesised) return fail("Expected an expression");
    return { type: "tuple", items, start, end: tokens[at - 1].end };
  }
  function expression(): Expression {
    const start = here();
    let yes = either();
    while (accept("if")) {
      const test = either();
      const no = accept("else") ? expression() : undefined;
      yes = { type: "condition", test, yes, no, ...place(start) };
    }
    return yes;
  }
  function chain(
    type: "binary" | "logical",
    operators: readonly string[],
    operand: () => Expression,
  ): Expression {
    const start = here();
    let left = operand();
    while (operators.some((operator) => is(operator))) {
      const operator = take().value;
      left = { type, operator, left, right: operand(), ...place(start) };
    }
    return left;
  }
  function either(): Expression {
    return chain("logical", ["or"], () => chain("logical", ["and"], negation));
  }
  function negation(): Expression {
    const start = here();
    if (!accept("not")) return comparison();
    return { type: "unary", operator: "not", operand: negation(), ...place(start) };
  }
  function comparison(): Expression {
    const start = here();
    const first = sum();
    const rest: [string, Expression][] = [];
    while (true) {
      if (COMPARISONS.some((operator) => is(operator)) || is("in")) {
        rest.push([take().value, sum()]);
      } else if (is("not") && is("in", 1)) {
        at += 2;
        rest.push(["not in", sum()]);
      } else return rest.length ? { type: "comparison", first, rest, ...place(start) } : first;
    }
  }
  function sum(): Expression {
    const product = () =>
      chain("binary", ["*", "/", "//", "%"], () => chain("binary", ["**"], unary));
    return chain("binary", ["+", "-"], () => chain("binary", ["~"], product));
  }
  function unary(filtered = true): Expression {
    const start = here();
    const node: Expression = is("-") || is("+")
      ? { type: "unary", operator: take().value, operand: unary(false), ...place(start) }
      : primary();
    return filtered ? filters(postfix(node)) : postfix(node);
  }
  function primary(): Expression {
    const start = here();
    const token = take();
    const constant = (value: Value): Expression => ({ type: "constant", value, ...place(start) });
    switch (token.kind) {
      case "name": {
        const known = CONSTANTS.get(token.value);
        return known === undefined
          ? { type: "name", name: token.value, ...place(start) }
          : constant(known);
      }
      case "string": {
        let text = unquote(token.value);
        while (tokens[at]?.kind === "string") text += unquote(take().value);
        return constant(text);
      }
      case "integer":
        return constant(Number(token.value.replaceAll("_", "")));
      case "float":
        return constant(new Float(Number(token.value.replaceAll("_", ""))));
      case "operator":
        break;
      default:
        at--;
        return fail("Expected an expression");
    }
    if (token.value === "(") {
      const inner = tuple({ parenthesised: true });
      expect(")");
      return { ...inner, ...place(start) };
    }
    if (token.value === "[") {
      const items: Expression[] = [];
      while (!accept("]")) {
        if (items.length) expect(",");
        if (!is("]")) items.push(expression());
      }
      return { type: "list", items, ...place(start) };
    }
    if (token.value === "{") {
      const entries: [Expression, Expression][] = [];
      while (!accept("}")) {
        if (entries.length) expect(",");
        if (is("}")) continue;
        const key = expression();
        expect(":");
        entries.push([key, expression()]);
      }
      return { type: "dict", entries, ...place(start) };
    }
    at--;
    return fail(`Unexpected "${token.value}"`);
  }
  function postfix(node: Expression): Expression {
    const { start } = node;
    while (true) {
      if (accept(".")) {
        const token = take();
        if (token.kind === "name") {
          node = { type: "attribute", object: node, name: token.value, ...place(start) };
        } else if (token.kind === "integer") {
          const index: Expression = {
            type: "constant",
            value: Number(token.value),
            ...place(token.start),
          };
          node = { type: "item", object: node, index, ...place(start) };
        } else fail("Expected a name or a number");
      } else if (accept("[")) node = subscript(node);
      else if (is("(")) node = { type: "call", callee: node, args: given(), ...place(start) };
      else return node;
    }
  }
  function subscript(object: Expression): Expression {
    const { start } = object;
    const bounds: (Expression | undefined)[] = [];
    let colons = 0;
    while (!is("]")) {
      if (accept(":")) colons++;
      else if (bounds[colons] === undefined) bounds[colons] = tuple();
      else fail(`Expected "]"`);
    }
    expect("]");
    if (colons > 2) fail("A slice has three bounds at most");
    if (colons) return { type: "slice", object, bounds: Array.from(bounds), ...place(start) };
    return { type: "item", object, index: bounds[0] ?? fail("Expected an index"), ...place(start) };
  }
  function given(): Arguments {
    expect("(");
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let star: Expression | undefined, doubleStar: Expression | undefined;
    for (let first = true; !accept(")"); first = false) {
      if (!first) {
        expect(",");
        if (accept(")")) break;
      }
      if (accept("*")) star = expression();
      else if (accept("**")) doubleStar = expression();
      else if (tokens[at]?.kind === "name" && is("=", 1)) {
        const key = name();
        expect("=");
        named.push([key, expression()]);
      } else if (named.length || doubleStar) fail("A positional argument follows a named one");
      else positional.push(expression());
    }
    return { positional, named, star, doubleStar };
  }
  /** Filters and tests that follow an operand; a block's filters begin with a name. */
  function filters(node: Expression | undefined, first?: string): Expression {
    const start = node?.start ?? tokens[at - 1].start;
    const dotted = (begin: string) => {
      while (accept(".")) begin += `.${name()}`;
      return begin;
    };
    const filter = (of: string): Expression => ({
      type: "filter",
      operand: node,
      name: dotted(of),
      args: is("(") ? given() : NO_ARGUMENTS,
      ...place(start),
    });
    if (first !== undefined) node = filter(first);
    while (true) {
      if (accept("|")) node = filter(name());
      else if (first === undefined && accept("is")) {
        const negated = accept("not");
        const test: string = COMPARISONS.some((operator) => is(operator))
          ? take().value
          : dotted(name());
        if (is("is")) fail("Tests cannot be chained with is");
        const args = is("(") ? given() : begins() ? only(postfix(primary())) : NO_ARGUMENTS;
        node = { type: "test", operand: node, name: test, args, ...place(start) };
        if (negated) node = { type: "unary", operator: "not", operand: node, ...place(start) };
      } else return node!;
    }
  }
  const only = (argument: Expression): Arguments => ({ positional: [argument], named: [] });
  /** Whether a test's argument without brackets follows. */
  function begins(): boolean {
    const { kind, value } = tokens[at] ?? {};
    if (kind === "name") return !["else", "or", "and", "is", "if", "in", "not"].includes(value);
    return kind === "string" || kind === "integer" || kind === "float" || is("[") || is("{");
  }

  return { source, body: body() };
}
