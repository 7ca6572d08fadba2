/**
 * Products of few rows with a matrix, as in decoding one token: every weight is read once and used `m` times, so the memory's speed is the limit
 * (0.5·m FLOP per byte of an f32 weight, 4·m with 4 bits) and a tile would idle.
 *
 * Two layouts of the weight, two kinds of adapter:
 * - lines are output columns ([N, K], a linear layer): on hardware neighbouring invocations read neighbouring 16-byte chunks of a
 *   line and add up in workgroup memory; on a software adapter an invocation takes whole lines, several at a time, as each chunk of `a` that it
 *   loads costs as much as one of the weight.
 * - lines are steps of k ([K, N], the gradient of a linear layer): neighbours take neighbouring columns; on hardware the steps are split over the workgroup.
 *
 * @module
 */
import { foldWorkgroups, type Kernel, workgroupNumber } from "./kernel.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import { type MatmulProblem, matrixIndex } from "./matmul-problem.ts";
import { chunkWidth, declareOperand, readsFour } from "./operand.ts";
import { createSizes, type Sizes } from "./sizes.ts";

/** Most rows of `a` for which these kernels are meant. */
const VECTOR_ROWS = 4;

/** Whether {@link vectorMatmul} can run a product. */
export function isVectorProblem({ m, k, n, a, b }: MatmulProblem): boolean {
  return m <= VECTOR_ROWS && !a.kMajor && k % 4 === 0 &&
    (b.kMajor ? n % 4 === 0 && readsFour(b.operand) : chunkWidth(b.operand) > 0);
}

/** The product of a few rows; `software` chooses the form without workgroup memory. */
export function vectorMatmul(
  problem: MatmulProblem,
  options: { readonly software: boolean },
): Kernel {
  const make = problem.b.kMajor
    ? options.software ? columnsPerInvocation : columnsPerWorkgroup
    : options.software
    ? linesPerInvocation
    : linesPerWorkgroup;
  return make(problem);
}

interface Frame {
  readonly sizes: Sizes;
  /** WGSL of the number of the group in its matrix. */
  readonly number: string;
  /** The kernel; an invocation takes a group, or a workgroup with what its invocations share. */
  kernel(text: {
    readonly variant: string;
    readonly threads: number;
    readonly shared?: string;
    /** Statements that find the place in the matrix. */
    readonly place: string;
    readonly body: string;
  }): Kernel;
}

function frame(
  problem: MatmulProblem,
  options: {
    readonly access: "four" | "chunk";
    readonly output: string;
    /** Groups of a matrix. */
    readonly groups: number;
  },
): Frame {
  const { batch, a, b } = problem;
  const { access, output, groups } = options;
  const count = groups * sizeOf(batch);
  const sizes = createSizes();
  const bindingsA = a.operand.bindings.length, bindingsB = b.operand.bindings.length;
  const declare = declareOperand(a.operand, { name: "aAt", binding: 0, access: "four", sizes }) +
    declareOperand(b.operand, { name: "bAt", binding: bindingsA, access, sizes }) +
    `@group(0) @binding(${
      bindingsA + bindingsB
    }) var<storage, read_write> output: array<${output}>;\n`;
  const stacks = `let stackA = ${matrixIndex(batch, a, sizes)} * ${sizes.u32(a.operand.lines)};
  let stackB = ${matrixIndex(batch, b, sizes)} * ${sizes.u32(b.operand.lines)};`;
  const total = sizes.u32(count), byGroups = sizes.divisor(groups, count);
  return {
    sizes,
    number: byGroups.remainder("group"),
    kernel: ({ variant, threads, shared, place, body }) => ({
      variant,
      dispatches: [{
        source: `${declare}${shared ? `\n${shared}\n` : ""}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")}${shared ? "" : ` * ${threads}u + thread`};
  if (group >= ${total}) { return; }
  let matrix = ${byGroups.quotient("group")};
  ${place}
  ${stacks}
  ${body}
}
`,
        sizes,
        bindings: [...a.operand.bindings, ...b.operand.bindings, "output"],
        workgroups: foldWorkgroups(shared ? count : Math.ceil(count / threads)),
        epilogue: true,
      }],
    }),
  };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

function linesPerInvocation(problem: MatmulProblem): Kernel {
  const { m, n, k, b } = problem;
  const width = chunkWidth(b.operand), fours = width / 4;
  const lines = n % 8 === 0 && n >= 256 ? 8 : 4;
  const groups = Math.ceil(n / lines);
  const f = frame(problem, { access: "chunk", output: "f32", groups });
  const { sizes } = f;
  const columns = sizes.u32(n);
  const set = range(lines).map((j) =>
    `let line${j} = stackB + min(column + ${j}u, ${columns} - 1u);`
  );
  const sums = range(m).flatMap((i) => range(lines).map((j) => `var sum${i}x${j} = 0.0;`));
  const load = range(m).flatMap((i) =>
    range(fours).map((q) => `let a${i}x${q} = aAt(stackA + ${i}u, c * ${fours}u + ${q}u);`)
  );
  const add = range(lines).map((j) =>
    `{ let b = bAt(line${j}, c); ${
      range(m).map((i) =>
        `sum${i}x${j} += ${range(fours).map((q) => `dot(a${i}x${q}, b[${q}])`).join(" + ")};`
      ).join(" ")
    } }`
  );
  const store = range(m).flatMap((i) =>
    range(lines).map((j) =>
      `if (column + ${j}u < ${columns}) { let at = (matrix * ${m}u + ${i}u) * ${columns} + column + ${j}u; output[at] = epilogue(sum${i}x${j}, at); }`
    )
  );
  return f.kernel({
    variant: `vector-${lines}-lines`,
    threads: 8,
    place: `let column = ${f.number} * ${lines}u;`,
    body: `${set.join("\n  ")}
  ${sums.join("\n  ")}
  for (var c = 0u; c < ${sizes.u32(k / width)}; c++) {
    ${load.join("\n    ")}
    ${add.join("\n    ")}
  }
  ${store.join("\n  ")}`,
  });
}

function linesPerWorkgroup(problem: MatmulProblem): Kernel {
  const { m, n, k, b } = problem;
  const width = chunkWidth(b.operand), fours = width / 4;
  const chunks = k / width;
  // 32 invocations on a line read 512 bytes in a row; short lines get fewer, so that all have work.
  let lanes = 32;
  while (lanes > 4 && lanes > chunks) lanes /= 2;
  const lines = 128 / lanes;
  const groups = Math.ceil(n / lines);
  const f = frame(problem, { access: "chunk", output: "f32", groups });
  const { sizes } = f;
  const columns = sizes.u32(n);
  return f.kernel({
    variant: `vector-workgroup-${lanes}`,
    threads: 128,
    shared: `var<workgroup> partial: array<f32, ${128 * m}>;`,
    place: `let lane = thread % ${lanes}u;
  let column = ${f.number} * ${lines}u + thread / ${lanes}u;`,
    body: `let line = stackB + min(column, ${columns} - 1u);
  ${range(m).map((i) => `var sum${i} = 0.0;`).join("\n  ")}
  for (var c = lane; c < ${sizes.u32(chunks)}; c += ${lanes}u) {
    let b = bAt(line, c);
    ${
      range(m).flatMap((i) =>
        range(fours).map((q) =>
          `sum${i} += dot(aAt(stackA + ${i}u, c * ${fours}u + ${q}u), b[${q}]);`
        )
      ).join("\n    ")
    }
  }
  ${range(m).map((i) => `partial[${i * 128}u + thread] = sum${i};`).join("\n  ")}
  for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      ${
      range(m).map((i) => `partial[${i * 128}u + thread] += partial[${i * 128}u + thread + half];`)
        .join("\n      ")
    }
    }
  }
  if (lane == 0u && column < ${columns}) {
    ${
      range(m).map((i) =>
        `{ let at = (matrix * ${m}u + ${i}u) * ${columns} + column; output[at] = epilogue(partial[${
          i * 128
        }u + thread], at); }`
      ).join("\n    ")
    }
  }`,
  });
}

function columnsPerInvocation(problem: MatmulProblem): Kernel {
  const { m, n, k } = problem;
  const fours = n % 8 === 0 && n >= 256 ? 2 : 1;
  const groups = n / 4 / fours;
  const f = frame(problem, { access: "four", output: "vec4<f32>", groups });
  const { sizes } = f;
  return f.kernel({
    variant: `vector-${4 * fours}-columns`,
    threads: 8,
    place: `let column = ${f.number} * ${fours}u;`,
    body: `${
      range(m).flatMap((i) => range(fours).map((j) => `var sum${i}x${j} = vec4<f32>();`))
        .join("\n  ")
    }
  for (var k = 0u; k < ${sizes.u32(k / 4)}; k++) {
    ${range(m).map((i) => `let a${i} = aAt(stackA + ${i}u, k);`).join("\n    ")}
    ${
      range(4).flatMap((c) =>
        range(fours).map((j) =>
          `{ let b = bAt(stackB + k * 4u + ${c}u, column + ${j}u); ${
            range(m).map((i) => `sum${i}x${j} += a${i}.${"xyzw"[c]} * b;`).join(" ")
          } }`
        )
      ).join("\n    ")
    }
  }
  ${
      range(m).flatMap((i) =>
        range(fours).map((j) =>
          `{ let at = (matrix * ${m}u + ${i}u) * ${
            sizes.u32(n / 4)
          } + column + ${j}u; output[at] = epilogue4(sum${i}x${j}, at * 4u); }`
        )
      ).join("\n  ")
    }`,
  });
}

function columnsPerWorkgroup(problem: MatmulProblem): Kernel {
  const { m, n, k } = problem;
  const slices = 8, across = 16;
  const groups = Math.ceil(n / 4 / across);
  const f = frame(problem, { access: "four", output: "vec4<f32>", groups });
  const { sizes } = f;
  const columns = sizes.u32(n / 4);
  return f.kernel({
    variant: "vector-workgroup-columns",
    threads: slices * across,
    shared: `var<workgroup> partial: array<vec4<f32>, ${slices * across * m}>;`,
    place: `let slice = thread / ${across}u;
  let column = ${f.number} * ${across}u + thread % ${across}u;`,
    body: `let place = min(column, ${columns} - 1u);
  ${range(m).map((i) => `var sum${i} = vec4<f32>();`).join("\n  ")}
  for (var k = slice; k < ${sizes.u32(k / 4)}; k += ${slices}u) {
    ${range(m).map((i) => `let a${i} = aAt(stackA + ${i}u, k);`).join("\n    ")}
    ${
      range(4).map((c) =>
        `{ let b = bAt(stackB + k * 4u + ${c}u, place); ${
          range(m).map((i) => `sum${i} += a${i}.${"xyzw"[c]} * b;`).join(" ")
        } }`
      ).join("\n    ")
    }
  }
  ${range(m).map((i) => `partial[${i * slices * across}u + thread] = sum${i};`).join("\n  ")}
  for (var half = ${slices / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (slice < half) {
      ${
      range(m).map((i) =>
        `partial[${i * slices * across}u + thread] += partial[${
          i * slices * across
        }u + thread + half * ${across}u];`
      ).join("\n      ")
    }
    }
  }
  if (slice == 0u && column < ${columns}) {
    ${
      range(m).map((i) =>
        `{ let at = (matrix * ${m}u + ${i}u) * ${columns} + column; output[at] = epilogue4(partial[${
          i * slices * across
        }u + thread], at * 4u); }`
      ).join("\n    ")
    }
  }`,
  });
}
