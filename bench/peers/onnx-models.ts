/**
 * The ONNX models that onnxruntime-web runs.
 *
 * @module
 */
import { encodeModel, type OnnxGraph, type OnnxNode } from "../../lib/device/cpu/onnx-model.ts";
import { LEARNING_RATE, MATMULS, type MatmulWork, MLP_SIZE } from "./workload.ts";

const node = (
  operator: string,
  inputs: readonly string[],
  output: string,
  attributes: OnnxNode["attributes"] = {},
): OnnxNode => ({ operator, domain: "", name: output, inputs, outputs: [output], attributes });

const matrix = (name: string, shape: readonly number[]) => ({ name, shape, type: "f32" as const });

function matmulGraph({ size: [m, k, n], transposeA, transposeB }: MatmulWork): OnnxGraph {
  return {
    inputs: [
      matrix("a", transposeA ? [k, m] : [m, k]),
      matrix("b", transposeB ? [n, k] : [k, n]),
    ],
    outputs: [matrix("c", [m, n])],
    initializers: [],
    nodes: [
      transposeA || transposeB
        ? node("Gemm", ["a", "b"], "c", { transA: Number(transposeA), transB: Number(transposeB) })
        : node("MatMul", ["a", "b"], "c"),
    ],
  };
}

function trainingGraph(): OnnxGraph {
  const { tokens, width, inner } = MLP_SIZE;
  const first = [width, inner], second = [inner, width];
  const scalar = (name: string, value: number) => ({
    ...matrix(name, []),
    data: Float32Array.of(value),
  });
  return {
    inputs: [
      matrix("x", [tokens, width]),
      matrix("y", [tokens, width]),
      matrix("w1", first),
      matrix("w2", second),
    ],
    outputs: [matrix("loss", []), matrix("next.w1", first), matrix("next.w2", second)],
    initializers: [
      scalar("zero", 0),
      scalar("slope", 2 / (tokens * width)),
      scalar("rate", LEARNING_RATE),
    ],
    nodes: [
      node("MatMul", ["x", "w1"], "sum"),
      node("Relu", ["sum"], "hidden"),
      node("MatMul", ["hidden", "w2"], "output"),
      node("Sub", ["output", "y"], "difference"),
      node("Mul", ["difference", "difference"], "square"),
      node("ReduceMean", ["square"], "loss", { keepdims: 0 }),
      node("Mul", ["difference", "slope"], "grad.output"),
      node("Gemm", ["hidden", "grad.output"], "grad.w2", { transA: 1 }),
      node("Gemm", ["grad.output", "w2"], "grad.hidden", { transB: 1 }),
      node("Greater", ["sum", "zero"], "open"),
      node("Where", ["open", "grad.hidden", "zero"], "grad.sum"),
      node("Gemm", ["x", "grad.sum"], "grad.w1", { transA: 1 }),
      node("Mul", ["grad.w1", "rate"], "change.w1"),
      node("Sub", ["w1", "change.w1"], "next.w1"),
      node("Mul", ["grad.w2", "rate"], "change.w2"),
      node("Sub", ["w2", "change.w2"], "next.w2"),
    ],
  };
}

/** Writes all models into a folder, one per measurement. */
export async function writeOnnxModels(folder: string): Promise<void> {
  for (const work of MATMULS) {
    await Deno.writeFile(`${folder}/${work.name}.onnx`, encodeModel(matmulGraph(work)));
  }
  await Deno.writeFile(`${folder}/training step.onnx`, encodeModel(trainingGraph()));
}
