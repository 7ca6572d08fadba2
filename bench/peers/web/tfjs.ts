/**
 * TensorFlow.js with its WebGPU backend.
 *
 * @module
 */
import { compete, LEARNING_RATE, type Matrix } from "../workload.ts";
import { importPackage, versionOf } from "./package.ts";

const tf = await importPackage("@tensorflow/tfjs");
await importPackage("@tensorflow/tfjs-backend-webgpu");
await tf.setBackend("webgpu");
await tf.ready();
if (tf.getBackend() !== "webgpu") {
  throw new Error(`tfjs runs on ${tf.getBackend()}, not on WebGPU.`);
}

const put = ({ data, shape }: Matrix) => tf.tensor(data, shape, "float32");

await compete({
  name: "tfjs",
  versions: { tfjs: await versionOf("@tensorflow/tfjs") },
  matmul(work, operands) {
    const a = put(operands.a), b = put(operands.b);
    return Promise.resolve(async () => {
      const c = tf.matMul(a, b, work.transposeA, work.transposeB);
      const data = await c.data();
      c.dispose();
      return data;
    });
  },
  train({ x, y, w1, w2 }) {
    const inputs = put(x), targets = put(y);
    const first = tf.variable(put(w1)), second = tf.variable(put(w2));
    const optimizer = tf.train.sgd(LEARNING_RATE);
    const loss = () => {
      const hidden = tf.relu(tf.matMul(inputs, first));
      return tf.mean(tf.square(tf.sub(tf.matMul(hidden, second), targets)));
    };
    return Promise.resolve({
      reset() {
        first.assign(put(w1));
        second.assign(put(w2));
        return Promise.resolve();
      },
      async step() {
        const value = optimizer.minimize(loss, true, [first, second]);
        const [number] = await value.data();
        value.dispose();
        return number;
      },
      weights: async () => [await first.data(), await second.data()] as const,
    });
  },
});
