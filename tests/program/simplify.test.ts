import { assertEquals } from "@std/assert";
import { add, div, mul, neg, sub } from "../../lib/ops/elementwise.ts";
import { broadcast } from "../../lib/ops/broadcast.ts";
import { constant } from "../../lib/ops/constant.ts";
import { input } from "../../lib/ops/input.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { stopGradient } from "../../lib/ops/stop-gradient.ts";
import { withGradientOf } from "../../lib/ops/with-gradient-of.ts";
import { transpose } from "../../lib/ops/transpose.ts";
import type { Value } from "../../lib/ops/value.ts";
import { trace } from "../../lib/program/program.ts";
import { simplify } from "../../lib/program/simplify.ts";

function simplified(fn: (x: Value) => Value): Value {
  const program = trace((graph) => ({
    y: fn(input(graph, "x", { shape: [2, 3], dtype: "f32" })),
  }));
  return simplify(program).outputs.get("y")!;
}

Deno.test("operations that change nothing disappear", () => {
  const cases: ((x: Value) => Value)[] = [
    (x) => add(x, 0),
    (x) => mul(1, x),
    (x) => div(x, 1),
    (x) => sub(x, 0),
    (x) => neg(neg(x)),
    (x) => stopGradient(x),
    (x) => withGradientOf(x, mul(x, x)),
    (x) => transpose(transpose(x)),
    (x) => reshape(reshape(reshape(x, [6]), [3, 2]), [2, 3]),
    (x) => mul(x, mul(constant(x.graph, 4), 0.25)),
  ];
  for (const fn of cases) assertEquals(simplified(fn).op, "input", String(fn));
});

Deno.test("constants are folded along a chain of products", () => {
  const y = simplified((x) => mul(mul(mul(x, 3), 0.5), 7));
  assertEquals(y.inputs[0].op, "input");
  assertEquals(y.inputs[1].attributes.value, 10.5);
});

Deno.test("a filled constant beside a value of its shape becomes a scalar", () => {
  const y = simplified((x) => add(x, broadcast(constant(x.graph, 5), [2, 3])));
  assertEquals(y.inputs[1].shape, []);
});

Deno.test("what broadcasts keeps its shape", () => {
  const program = trace((graph) => ({
    y: mul(
      input(graph, "x", { shape: [3], dtype: "f32" }),
      broadcast(constant(graph, 1), [4, 3]),
    ),
  }));
  assertEquals(simplify(program).outputs.get("y")!.shape, [4, 3]);
});

Deno.test("the sign of a zero constant and infinities survive", () => {
  const y = simplified((x) => mul(x, Infinity));
  assertEquals(y.inputs[1].attributes.value, Infinity);
});
