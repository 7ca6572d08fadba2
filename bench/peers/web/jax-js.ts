/**
 * jax-js on WebGPU, with everything inside `jit`. Its functions consume their arguments; `.ref` keeps one.
 *
 * @module
 */
import { compete, LEARNING_RATE, type Matrix } from "../workload.ts";
import { importPackage, versionOf } from "./package.ts";

const { defaultDevice, init, jit, nn, numpy: np, valueAndGrad } = await importPackage(
  "@jax-js/jax",
);
const devices = await init("webgpu");
if (!devices.includes("webgpu")) throw new Error("jax-js does not find WebGPU.");
defaultDevice("webgpu");

const put = ({ data, shape }: Matrix) => np.array(data).reshape([...shape]);
// deno-lint-ignore no-explicit-any -- as in package.ts
type Array = any;

await compete({
  name: "jax-js",
  versions: { "jax-js": await versionOf("@jax-js/jax") },
  matmul(work, operands) {
    const a = put(operands.a), b = put(operands.b);
    const transposed = (is: boolean, m: Array) => is ? np.transpose(m) : m;
    const product = jit((a: Array, b: Array) =>
      np.matmul(transposed(work.transposeA, a), transposed(work.transposeB, b))
    );
    return Promise.resolve(() => product(a.ref, b.ref).data());
  },
  train({ x, y, w1, w2 }) {
    const inputs = put(x), targets = put(y);
    let first = put(w1), second = put(w2);
    const loss = (first: Array, second: Array, inputs: Array, targets: Array) => {
      const hidden = nn.relu(np.matmul(inputs, first));
      return np.mean(np.square(np.matmul(hidden, second).sub(targets)));
    };
    const step = jit((first: Array, second: Array, inputs: Array, targets: Array) => {
      const gradients = valueAndGrad(loss, { argnums: [0, 1] });
      const [value, [g1, g2]] = gradients(first.ref, second.ref, inputs, targets);
      return [value, first.sub(g1.mul(LEARNING_RATE)), second.sub(g2.mul(LEARNING_RATE))];
    });
    return Promise.resolve({
      reset() {
        first.dispose();
        second.dispose();
        first = put(w1);
        second = put(w2);
        return Promise.resolve();
      },
      async step() {
        let value: Array;
        [value, first, second] = step(first, second, inputs.ref, targets.ref);
        return (await value.data())[0];
      },
      weights: async () => [await first.ref.data(), await second.ref.data()] as const,
    });
  },
});
