import { assert, assertEquals, assertThrows } from "@std/assert";
import { ShapeError, ValueError } from "../../lib/errors.ts";
import { add, mul } from "../../lib/ops/elementwise.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { mean, sum } from "../../lib/ops/reduce.ts";
import { reshape } from "../../lib/ops/reshape.ts";
import { stopGradient } from "../../lib/ops/stop-gradient.ts";
import { grad, gradients } from "../../lib/program/grad.ts";
import { trace } from "../../lib/program/program.ts";

const spec = (shape: number[]) => ({ shape, dtype: "f32" as const });

Deno.test("gradients of frozen weights do not exist", () => {
  const program = trace((graph) => {
    const x = input(graph, "x", spec([4, 3]));
    const frozen = input(graph, "frozen", spec([3, 5]));
    const a = input(graph, "a", spec([3, 2])), b = input(graph, "b", spec([2, 5]));
    return { loss: sum(add(matmul(x, frozen), matmul(matmul(x, a), b))) };
  });
  const both = grad(program, { of: "loss", wrt: ["a", "b"] });
  // Three products forward; one for each of a and b, and the one between them.
  assertEquals(both.nodes.filter((n) => n.op === "matmul").length, 6);
  assertEquals(both.outputs.get("grad.a")!.shape, [3, 2]);
  const one = grad(program, { of: "loss", wrt: ["b"] });
  assertEquals(one.nodes.filter((n) => n.op === "matmul").length, 4);
});

Deno.test("a value that the loss does not depend on has a gradient of zeros", () => {
  const program = trace((graph) => {
    const x = input(graph, "x", spec([2]));
    const y = input(graph, "y", spec([3]));
    return { loss: sum(x), other: mul(y, 2) };
  });
  const g = grad(program, { of: "loss", wrt: ["y"] }).outputs.get("grad.y")!;
  assertEquals([g.op, g.shape, g.inputs[0].attributes.value], ["broadcast", [3], 0]);
});

Deno.test("a value between keeps its gradient when it is a reshape that is reshaped again", () => {
  const program = trace((graph) => {
    const column = reshape(input(graph, "x", spec([6])), [6, 1]);
    const loss = sum(mul(reshape(column, [2, 3]), 7));
    return { gradient: gradients(loss, [column])[0] };
  });
  const { op, shape, inputs } = program.outputs.get("gradient")!;
  assertEquals([op, shape], ["reshape", [6, 1]]);
  assert(inputs[0].op !== "constant", "not the zeros of a value that the loss does not depend on");
});

Deno.test("no gradient flows through stopGradient", () => {
  const program = trace((graph) => {
    const x = input(graph, "x", spec([2]));
    return { loss: sum(mul(stopGradient(x), 3)) };
  });
  assertEquals(grad(program, { of: "loss", wrt: ["x"] }).outputs.get("grad.x")!.op, "broadcast");
});

Deno.test("wrong names and losses that are no scalar are errors", () => {
  const program = trace((graph) => {
    const x = input(graph, "x", spec([2, 2]));
    return { loss: mean(x), wide: x };
  });
  assertThrows(() => grad(program, { of: "loss", wrt: ["z"] }), ValueError, "inputs x");
  assertThrows(() => grad(program, { of: "cost", wrt: ["x"] }), ValueError, "outputs loss, wide");
  assertThrows(() => grad(program, { of: "wide", wrt: ["x"] }), ShapeError, "[2,2]");
});
