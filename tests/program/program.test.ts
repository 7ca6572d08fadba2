import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { ShapeError } from "../../lib/errors.ts";
import { add, mul } from "../../lib/ops/elementwise.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { printProgram, programOf, rewrite, trace } from "../../lib/program/program.ts";

function example(name = "x") {
  return trace((graph) => {
    const x = input(graph, name, { shape: [2, 3], dtype: "f32" });
    const w = input(graph, "w", { shape: [5, 3], dtype: "f32", role: "weight" });
    return { y: add(matmul(x, w, { transposeB: true }), 1) };
  });
}

Deno.test("equal nodes are one node", () => {
  const program = trace((graph) => {
    const x = input(graph, "x", { shape: [2], dtype: "f32" });
    return { y: add(mul(x, 2), mul(x, 2)) };
  });
  assertEquals(program.nodes.filter((n) => n.op === "binary").length, 2);
});

Deno.test("equal functions give equal keys, and other names, shapes or attributes other ones", () => {
  assertEquals(example().key, example().key);
  assertEquals(example().key === example("z").key, false);
  const negativeZero = (zero: number) =>
    trace((graph) => ({ y: mul(input(graph, "x", { shape: [1], dtype: "f32" }), zero) })).key;
  assertEquals(negativeZero(0) === negativeZero(-0), false);
});

Deno.test("a program prints one line per node", () => {
  const text = printProgram(example());
  assertStringIncludes(text, "%2 = matmul(%0, %1) {transposeA:false,transposeB:true} : f32[2,5]");
  assertStringIncludes(text, "return y = ");
});

Deno.test("nodes keep the order of creation, and only what outputs need stays", () => {
  const graph = createGraph();
  const x = input(graph, "x", { shape: [2], dtype: "f32" });
  mul(x, 3);
  const late = add(x, 1);
  const program = programOf({ late });
  assertEquals(program.nodes.map((n) => n.op), ["input", "constant", "binary"]);
});

Deno.test("a state's update needs its shape", () => {
  assertThrows(
    () =>
      trace((graph) => {
        const s = input(graph, "s", { shape: [2], dtype: "f32", role: "state" });
        return { next: add(s, input(graph, "x", { shape: [3, 2], dtype: "f32" })) };
      }, { updates: { s: "next" } }),
    ShapeError,
    'The state "s"',
  );
});

Deno.test("values of two traces do not mix", () => {
  const [a, b] = [0, 1].map(() => input(createGraph(), "x", { shape: [1], dtype: "f32" }));
  assertThrows(() => add(a, b), TypeError, "two traces");
});

Deno.test("rewriting with keep gives an equal program", () => {
  const program = example();
  assertEquals(rewrite(program, (_node, _inputs, keep) => keep()).key, program.key);
});
