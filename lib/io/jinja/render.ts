/**
 * Renders Jinja templates as Python's Jinja does in transformers' sandbox.
 *
 * This is an interpreter of its own, since `@huggingface/jinja` could not be completed from outside:
 * its parser has no `raw`, `with` and `generation`, no arguments of tests, no chains of comparisons
 * and no positions for messages, and its values print and compare as JavaScript's do.
 *
 * @module
 */
import { FILTERS, globals, TESTS, type Tools } from "./filters.ts";
import {
  DICT_METHODS,
  FORBIDDEN,
  LIST_METHODS,
  MOST_CHARACTERS,
  percent,
  repeat,
  STRING_METHODS,
} from "./methods.ts";
import { type Arguments, type Body, type Expression, type Parameters, parse } from "./parser.ts";
import {
  Attributes,
  Callable,
  charactersOf,
  compare,
  contains,
  defined,
  equal,
  Float,
  fromJson,
  isDict,
  isList,
  itemsOf,
  keyOf,
  type Keywords,
  Namespace,
  numberOf,
  represent,
  show,
  sliceOf,
  TemplateError,
  truthy,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

/** What a template may use up. */
const MOST_STEPS = 1_000_000, MOST_MS = 5_000, MOST_DEPTH = 200;

/** A part of a text, in UTF-16 units, from `start` up to `end`. */
export interface Generated {
  /** Where it begins. */
  readonly start: number;
  /** Where it ends. */
  readonly end: number;
  /** The message (from 0) that a loop was at. */
  readonly message: number | undefined;
}

/** What a template made. */
export interface Rendered {
  /** The text. */
  readonly text: string;
  /** What stands in `{% generation %}` blocks, in order. */
  readonly generated: readonly Generated[];
}

/** A parsed template. */
export interface Template {
  /** Whether the template has `{% generation %}` blocks. */
  readonly marksGenerated: boolean;
  /** Whether it goes through the parts of a message's `content`. */
  readonly readsParts: boolean;
  /**
   * Renders it.
   *
   * @param variables What the template reads.
   * @throws {TemplateError} with the expression that failed; its `item` is the number of the
   * message that a loop was at.
   */
  render(variables: Readonly<Record<string, unknown>>, now?: () => Date): Rendered;
}

/** Parses a template. */
export function compile(template: string): Template {
  const { source, body } = parsed(template);
  return {
    marksGenerated: some(body, ({ type }) => type === "generation"),
    readsParts: some(body, (node) =>
      node.type === "for" && isContent(node.items as Expression) ||
      node.type === "filter" && ["map", "selectattr"].includes(String(node.name)) &&
        isContent(node.operand as Expression | undefined)),
    render: (variables, now = () => new Date()) => run(source, body, variables, now),
  };
}

function parsed(template: string): ReturnType<typeof parse> {
  try {
    return parse(template);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new TemplateError("The template nests too deeply");
  }
}

class Scope {
  private readonly names = new Map<string, Value>();
  constructor(
    private readonly outer: Scope | null,
    values: Iterable<readonly [string, Value]> = [],
  ) {
    for (const [name, value] of values) this.names.set(name, value);
  }
  get(name: string): Value | undefined {
    const found = this.names.get(name);
    return found === undefined && this.outer ? this.outer.get(name) : found;
  }
  set(name: string, value: Value): void {
    this.names.set(name, value);
  }
}

function run(
  source: string,
  program: Body,
  variables: Readonly<Record<string, unknown>>,
  now: () => Date,
): Rendered {
  const given = Object.entries(variables).filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name, fromJson(value)] as const);
  const messages = given.find(([name]) => name === "messages")?.[1];
  const top = new Scope(new Scope(null, Object.entries(globals(now))), given);
  const generated: Generated[] = [];
  const main: string[] = [];
  const until = Date.now() + MOST_MS;
  let out = main;
  let mainLength = 0, written = 0, steps = 0, depth = 0;
  let at: Expression | undefined;
  let message: number | undefined;

  function write(text: string): void {
    out.push(text);
    if (out === main) mainLength += text.length;
    written += text.length;
    if (written > MOST_CHARACTERS) throw new TemplateError("The template writes too much text");
  }
  function step(): void {
    if (++steps > MOST_STEPS || steps % 4096 === 0 && Date.now() > until) {
      throw new TemplateError("The template takes too many steps");
    }
  }
  /** What a body writes, as a text. */
  function capture(body: Body, scope: Scope): string {
    const before = out;
    const mine: string[] = out = [];
    if (++depth > MOST_DEPTH) throw new TemplateError("The template calls itself too deeply");
    try {
      execute(body, scope);
    } finally {
      out = before;
      depth--;
    }
    return mine.join("");
  }

  // Statements

  function execute(body: Body, scope: Scope): "break" | "continue" | undefined {
    for (const statement of body) {
      step();
      switch (statement.type) {
        case "text":
          write(statement.text);
          break;
        case "output":
          write(show(evaluate(statement.value, scope)));
          break;
        case "if": {
          const taken = truthy(evaluate(statement.test, scope))
            ? statement.body
            : statement.otherwise;
          const jump = execute(taken, scope);
          if (jump) return jump;
          break;
        }
        case "for":
          loop(statement, evaluate(statement.items, scope), scope, 1);
          break;
        case "set":
          assign(statement.target, evaluate(statement.value, scope), scope);
          break;
        case "set block": {
          const text = capture(statement.body, new Scope(scope));
          const { filter } = statement;
          assign(statement.target, filter ? evaluate(filter, scope, text) : text, scope);
          break;
        }
        case "macro":
          scope.set(
            statement.name,
            macro(statement.name, statement.parameters, statement.body, scope),
          );
          break;
        case "call block": {
          const caller = macro("caller", statement.parameters, statement.body, scope);
          write(show(call(statement.call, scope, caller)));
          break;
        }
        case "filter block": {
          const text = capture(statement.body, new Scope(scope));
          write(show(evaluate(statement.filter, scope, text)));
          break;
        }
        case "with": {
          const inner = new Scope(scope);
          for (const [target, value] of statement.values) {
            assign(target, evaluate(value, scope), inner);
          }
          const jump = execute(statement.body, inner);
          if (jump) return jump;
          break;
        }
        case "generation": {
          const text = capture(statement.body, new Scope(scope));
          generated.push({ start: mainLength, end: mainLength + text.length, message });
          write(text);
          break;
        }
        default:
          return statement.type;
      }
    }
  }

  function loop(
    statement: Body[number] & { readonly type: "for" },
    over: Value,
    scope: Scope,
    level: number,
  ): void {
    const { target, test, recursive } = statement;
    const outerMessage = message;
    const list = isList(messages ?? null) ? messages as readonly Value[] : [];
    let items = itemsOf(over);
    if (test) {
      items = items.filter((item) => {
        const inner = new Scope(scope);
        assign(target, item, inner);
        return truthy(evaluate(test, inner));
      });
    }
    const length = items.length;
    let ran = false;
    let last: readonly Value[] | undefined;
    const changed = new Callable("changed", (args) => {
      const same = last !== undefined && equal([...last], [...args]);
      last = args;
      return !same;
    });
    const deeper = new Callable("loop", ([inner]) => {
      const before = out;
      const mine: string[] = out = [];
      if (++depth > MOST_DEPTH) throw new TemplateError("The template calls itself too deeply");
      try {
        loop(statement, inner, scope, level + 1);
      } finally {
        out = before;
        depth--;
      }
      return mine.join("");
    });
    for (let i = 0; i < length; i++) {
      step();
      const item = items[i];
      if (typeof item === "object" && item !== null) {
        const number = list.indexOf(item);
        if (number >= 0) message = number;
      }
      const beside = (n: number, where: string): Value =>
        or(items[n], () => new Undefined(`there is no ${where} item`));
      const inner = new Scope(scope);
      const attributes = new Map<string, Value>([
        ["index", i + 1],
        ["index0", i],
        ["revindex", length - i],
        ["revindex0", length - i - 1],
        ["first", i === 0],
        ["last", i === length - 1],
        ["length", length],
        ["depth", level],
        ["depth0", level - 1],
        ["previtem", beside(i - 1, "previous")],
        ["nextitem", beside(i + 1, "next")],
        ["changed", changed],
        ["cycle", new Callable("cycle", (args) => args[i % args.length])],
      ]);
      inner.set("loop", new Attributes("loop", attributes, recursive ? deeper : undefined));
      assign(target, item, inner);
      const jump = execute(statement.body, inner);
      if (jump === "break") break;
      if (jump !== "continue") ran = true;
    }
    message = outerMessage;
    if (!ran) execute(statement.otherwise, new Scope(scope));
  }

  function assign(target: Expression, value: Value, scope: Scope): void {
    if (target.type === "name") scope.set(target.name, value);
    else if (target.type === "tuple") {
      const items = itemsOf(defined(value));
      if (items.length !== target.items.length) {
        at = target;
        throw new TemplateError(
          `${items.length} values cannot be unpacked into ${target.items.length} names`,
        );
      }
      target.items.forEach((name, i) => assign(name, items[i], scope));
    } else if (target.type === "attribute") {
      const object = evaluate(target.object, scope);
      at = target;
      if (!(object instanceof Namespace)) {
        throw new TemplateError("cannot assign attribute on non-namespace object");
      }
      object.attributes.set(target.name, value);
    }
  }

  function macro(name: string, parameters: Parameters, body: Body, scope: Scope): Callable {
    return new Callable(name, (args, keywords) => {
      const inner = new Scope(scope);
      const rest = new Map(keywords);
      const caller = rest.get("caller");
      rest.delete("caller");
      parameters.forEach((parameter, i) => {
        let value = i < args.length ? args[i] : rest.get(parameter.name);
        if (i >= args.length) rest.delete(parameter.name);
        if (value === undefined && parameter.otherwise) {
          value = evaluate(parameter.otherwise, inner);
        }
        const missing = () => new Undefined(`parameter '${parameter.name}' was not provided`);
        inner.set(parameter.name, or(value, missing));
      });
      // A body that reads these takes arguments that have no parameter.
      const reads = (word: string) => names(body).has(word);
      if (args.length > parameters.length && !reads("varargs")) {
        throw new TemplateError(
          `macro '${name}' takes not more than ${parameters.length} argument(s)`,
        );
      }
      const [unknown] = rest.keys();
      if (unknown !== undefined && !reads("kwargs")) {
        throw new TemplateError(`macro '${name}' takes no keyword argument '${unknown}'`);
      }
      inner.set("varargs", new Tuple(args.slice(parameters.length)));
      inner.set("kwargs", new Map<Value, Value>(rest));
      inner.set("caller", caller ?? new Undefined("No caller defined"));
      return capture(body, inner);
    });
  }

  // Expressions

  function evaluate(node: Expression, scope: Scope, filtered?: string): Value {
    step();
    switch (node.type) {
      case "constant":
        return node.value;
      case "name":
        return or(scope.get(node.name), () => new Undefined(`'${node.name}' is undefined`));
      case "tuple":
        return new Tuple(node.items.map((item) => evaluate(item, scope)));
      case "list":
        return node.items.map((item) => evaluate(item, scope));
      case "dict":
        return new Map(
          node.entries.map(([key, value]) => [
            keyOf(evaluate(key, scope)),
            evaluate(value, scope),
          ]),
        );
      case "attribute": {
        const object = evaluate(node.object, scope);
        at = node;
        return attribute(object, node.name);
      }
      case "item": {
        const object = evaluate(node.object, scope), key = evaluate(node.index, scope);
        at = node;
        return item(object, key);
      }
      case "slice": {
        const object = evaluate(node.object, scope);
        const bounds = node.bounds.map((bound) => bound && evaluate(bound, scope));
        at = node;
        return sliceOf(object, bounds);
      }
      case "call":
        return call(node, scope);
      case "filter": {
        const value = node.operand ? evaluate(node.operand, scope, filtered) : filtered!;
        const [args, keywords] = argumentsOf(node.args, scope);
        at = node;
        return tools.filter(node.name, value, args, keywords);
      }
      case "test": {
        const value = evaluate(node.operand!, scope);
        const [args] = argumentsOf(node.args, scope);
        at = node;
        return tools.test(node.name, value, args);
      }
      case "unary": {
        const value = evaluate(node.operand, scope);
        at = node;
        if (node.operator === "not") return !truthy(value);
        const number = numberOf(defined(value));
        if (number === undefined) {
          throw new TemplateError(`bad operand type for ${node.operator}: '${typeName(value)}'`);
        }
        const signed = node.operator === "-" ? -number : number;
        return value instanceof Float ? new Float(signed) : signed + 0;
      }
      case "logical": {
        const left = evaluate(node.left, scope);
        return truthy(left) === (node.operator === "or") ? left : evaluate(node.right, scope);
      }
      case "binary": {
        const left = evaluate(node.left, scope), right = evaluate(node.right, scope);
        at = node;
        return binary(node.operator, left, right);
      }
      case "comparison": {
        let left = evaluate(node.first, scope);
        for (const [operator, operand] of node.rest) {
          const right = evaluate(operand, scope);
          at = node;
          if (!compares(operator, left, right)) return false;
          left = right;
        }
        return true;
      }
      case "condition":
        if (truthy(evaluate(node.test, scope))) return evaluate(node.yes, scope);
        return node.no
          ? evaluate(node.no, scope)
          : new Undefined("the inline if-expression evaluated to false and has no else");
    }
  }
  function argumentsOf(args: Arguments, scope: Scope): [Value[], Map<string, Value>] {
    const positional = args.positional.map((arg) => evaluate(arg, scope));
    if (args.star) positional.push(...itemsOf(evaluate(args.star, scope)));
    const named = new Map(args.named.map(([name, arg]) => [name, evaluate(arg, scope)]));
    if (args.doubleStar) {
      const more = evaluate(args.doubleStar, scope);
      if (!isDict(more)) throw new TemplateError("argument after ** must be a mapping");
      for (const [name, value] of more) named.set(show(name), value);
    }
    return [positional, named];
  }
  function call(
    node: Expression & { readonly type: "call" },
    scope: Scope,
    caller?: Value,
  ): Value {
    const callee = evaluate(node.callee, scope);
    const [args, keywords] = argumentsOf(node.args, scope);
    if (caller !== undefined) keywords.set("caller", caller);
    at = node;
    const callable = callee instanceof Attributes ? callee.callable : callee;
    if (!(callable instanceof Callable)) {
      throw new TemplateError(`'${typeName(defined(callee))}' object is not callable`);
    }
    return callable.call(args, keywords);
  }

  try {
    execute(program, top);
  } catch (error) {
    const reason = error instanceof TemplateError
      ? error.reason
      : error instanceof RangeError
      ? "The template nests too deeply, or makes too long a text"
      : String((error as Error).message ?? error);
    const expression = at && source.slice(at.start, Math.min(at.end, at.start + 200));
    throw new TemplateError(reason, expression, message);
  }
  return { text: main.join(""), generated };
}

/** A value (`null` is one), or another. */
function or<T extends Value | undefined>(value: Value | undefined, other: () => T): Value | T {
  return value === undefined ? other() : value;
}

/** Whether a node of a template, or one inside of it, is such a one. */
function some(node: unknown, is: (node: Readonly<Record<string, unknown>>) => boolean): boolean {
  if (typeof node !== "object" || node === null) return false;
  return "type" in node && is(node as Readonly<Record<string, unknown>>) ||
    Object.values(node).some((part) => some(part, is));
}

/** The names that statements read, looked for once in each body. */
const namesOf = new WeakMap<Body, ReadonlySet<string>>();
function names(body: Body): ReadonlySet<string> {
  const found = new Set<string>();
  if (!namesOf.has(body)) {
    some(body, ({ type, name }) => type === "name" && (found.add(String(name)), false));
    namesOf.set(body, found);
  }
  return namesOf.get(body)!;
}

/** Whether an expression is a message's content, filtered or not. */
function isContent(node: Expression | undefined): boolean {
  if (node?.type === "filter") return isContent(node.operand);
  return (node?.type === "name" || node?.type === "attribute") && node.name === "content" ||
    node?.type === "item" && node.index.type === "constant" && node.index.value === "content";
}

const tools: Tools = {
  item,
  filter(name, value, args, keywords) {
    if (!Object.hasOwn(FILTERS, name)) throw new TemplateError(`No filter named '${name}'`);
    return FILTERS[name](value, args, keywords, tools);
  },
  test(name, value, args) {
    if (!Object.hasOwn(TESTS, name)) throw new TemplateError(`No test named '${name}'`);
    return TESTS[name](value, args);
  },
};

function method(object: Value, name: string): Value | undefined {
  const of = <T>(
    methods: Readonly<Record<string, (self: T, ...rest: [readonly Value[], Keywords]) => Value>>,
    self: T,
  ) =>
    Object.hasOwn(methods, name)
      ? new Callable(name, (args, keywords) => methods[name](self, args, keywords))
      : undefined;
  const forbidden = FORBIDDEN[typeName(object)]?.includes(name);
  if (forbidden) {
    return new Undefined(`access to attribute '${name}' of '${typeName(object)}' object is unsafe`);
  }
  if (typeof object === "string") return of(STRING_METHODS, object);
  if (isDict(object)) return of(DICT_METHODS, object);
  const named = object instanceof Tuple ? object.names.indexOf(name) : -1;
  if (named >= 0) return itemsOf(object)[named];
  if (isList(object) || object instanceof Tuple) return of(LIST_METHODS, itemsOf(object));
  if (object instanceof Namespace || object instanceof Attributes) {
    return object.attributes.get(name);
  }
  if (object instanceof Callable && name === "name") return object.name;
}

/** `object.name`: an attribute, else an item. */
function attribute(object: Value, name: string): Value {
  return or(
    or(method(defined(object), name), () => entry(object, name)),
    () => missing(object, name),
  );
}

/** `object[key]`: an item, else an attribute. */
function item(object: Value, key: Value): Value {
  defined(object);
  return or(
    or(entry(object, key), () => typeof key === "string" ? method(object, key) : undefined),
    () => missing(object, key),
  );
}

function entry(object: Value, key: Value): Value | undefined {
  if (isDict(object)) {
    return typeof key === "string" || key === null || numberOf(key) !== undefined
      ? object.get(keyOf(key))
      : undefined;
  }
  const whole = key instanceof Float ? undefined : numberOf(key);
  const ordered = typeof object === "string" || isList(object) || object instanceof Tuple ||
    object instanceof View && object.label.startsWith("range");
  if (whole === undefined || !ordered) return undefined;
  return (typeof object === "string" ? charactersOf(object) : itemsOf(object)).at(whole);
}

function missing(object: Value, key: Value): Undefined {
  return new Undefined(
    typeof key === "string"
      ? `'${typeName(object)} object' has no attribute '${key}'`
      : `'${typeName(object)} object' has no element ${represent(key)}`,
  );
}

function compares(operator: string, left: Value, right: Value): boolean {
  switch (operator) {
    case "==":
      return equal(left, right);
    case "!=":
      return !equal(left, right);
    case "<":
      return compare(left, right) < 0;
    case ">":
      return compare(left, right) > 0;
    case "<=":
      return compare(left, right) <= 0;
    case ">=":
      return compare(left, right) >= 0;
    case "in":
      return contains(right, left);
    default:
      return !contains(right, left);
  }
}

function binary(operator: string, left: Value, right: Value): Value {
  const joined = (a: string, b: string) => {
    if (a.length + b.length > MOST_CHARACTERS) throw new TemplateError("The text is too long");
    return a + b;
  };
  if (operator === "~") return joined(show(left), show(right));
  defined(left);
  defined(right);
  const a = numberOf(left), b = numberOf(right);
  if (a !== undefined && b !== undefined) return arithmetic(operator, left, right, a, b);
  if (operator === "+") {
    if (typeof left === "string" && typeof right === "string") return joined(left, right);
    if (isList(left) && isList(right)) return [...left, ...right];
    if (left instanceof Tuple && right instanceof Tuple) {
      return new Tuple([...left.items, ...right.items]);
    }
  }
  if (operator === "%" && typeof left === "string") return percent(left, right);
  if (operator === "*") {
    const [value, times] = a === undefined ? [left, b] : [right, a];
    if (times !== undefined && typeof value === "string") return repeat(value, times);
    if (times !== undefined && isList(value) && value.length * times < 1e6) {
      return Array.from({ length: Math.max(0, times) }, () => value).flat();
    }
  }
  throw new TemplateError(
    `unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`,
  );
}

function arithmetic(operator: string, left: Value, right: Value, a: number, b: number): Value {
  const float = left instanceof Float || right instanceof Float;
  if (b === 0 && ["/", "//", "%"].includes(operator)) throw new TemplateError("division by zero");
  const result = {
    "+": () => a + b,
    "-": () => a - b,
    "*": () => a * b,
    "/": () => a / b,
    "//": () => Math.floor(a / b),
    "%": () => a - b * Math.floor(a / b),
    "**": () => a ** b,
  }[operator]!();
  if (float || operator === "/" || operator === "**" && b < 0) return new Float(result);
  if (!Number.isSafeInteger(result)) throw new TemplateError("The number is too large");
  return result;
}
