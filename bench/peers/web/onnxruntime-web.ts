/**
 * onnxruntime-web on WebGPU. It runs inference only, so a training step is an ONNX graph with the backward pass and the update written
 * out. Models come from the first argument's folder (see ../onnx-models.ts); matrices and weights stay in GPU buffers.
 *
 * @module
 */
import { compete, type Matrix } from "../workload.ts";
import { importPackage, versionOf } from "./package.ts";

const ort = await importPackage("onnxruntime-web/webgpu");
ort.env.wasm.numThreads = 1;
// deno-lint-ignore no-explicit-any -- as in package.ts
type Tensor = any;

const open = async (name: string, outputs: Readonly<Record<string, "cpu" | "gpu-buffer">>) =>
  ort.InferenceSession.create(await Deno.readFile(`${Deno.args[0]}/${name}.onnx`), {
    executionProviders: ["webgpu"],
    preferredOutputLocation: outputs,
  });

/** A matrix in a GPU buffer of its own. */
async function put({ data, shape }: Matrix): Promise<Tensor> {
  const device: GPUDevice = await ort.env.webgpu.device;
  const gpuBuffer = device.createBuffer({
    size: data.byteLength,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  device.queue.writeBuffer(gpuBuffer, 0, data);
  return ort.Tensor.fromGpuBuffer(gpuBuffer, {
    dataType: "float32",
    dims: [...shape],
    dispose: () => gpuBuffer.destroy(),
  });
}

await compete({
  name: "onnxruntime-web",
  versions: { "onnxruntime-web": await versionOf("onnxruntime-web/webgpu") },
  async matmul(work, operands) {
    const session = await open(work.name, { c: "cpu" });
    const a = await put(operands.a), b = await put(operands.b);
    return async () => (await session.run({ a, b })).c.data;
  },
  async train({ x, y, w1, w2 }) {
    const session = await open("training step", {
      loss: "cpu",
      "next.w1": "gpu-buffer",
      "next.w2": "gpu-buffer",
    });
    const data = { x: await put(x), y: await put(y) };
    let weights = { w1: await put(w1), w2: await put(w2) };
    const take = (w1: Tensor, w2: Tensor) => {
      weights.w1.dispose();
      weights.w2.dispose();
      weights = { w1, w2 };
    };
    return {
      async reset() {
        take(await put(w1), await put(w2));
      },
      async step() {
        const outputs = await session.run({ ...data, ...weights });
        take(outputs["next.w1"], outputs["next.w2"]);
        return outputs.loss.data[0];
      },
      weights: async () => [await weights.w1.getData(), await weights.w2.getData()] as const,
    };
  },
});
