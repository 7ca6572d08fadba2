/**
 * docs/peft.md says where each member of PEFT is: that none is missing, and that what it names is
 * there.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import * as graft from "../../mod.ts";
import { goldenBase } from "../adapters/bases.ts";
import surface from "../golden/surface.json" with { type: "json" };

const tests = new URL("../", import.meta.url);
const text = await Deno.readTextFile(new URL("../docs/peft.md", tests));
const members: Readonly<Record<string, readonly string[]>> = surface.members;

/** A row of a table. */
interface Row {
  /** What the section is about: classes and modules of PEFT. */
  readonly about: readonly string[];
  /** The line, for messages. */
  readonly line: string;
  /** Code in the four columns. */
  readonly peft: readonly string[];
  readonly here: readonly string[];
  readonly test: readonly string[];
  /** Text of the last column. */
  readonly differs: string;
}

const codes = (cell: string): readonly string[] =>
  [...cell.matchAll(/`([^`]+)`/g)].map((m) => m[1]);

function readRows(): readonly Row[] {
  let about: readonly string[] = [];
  const rows: Row[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) about = codes(line);
    if (!line.startsWith("| `")) continue;
    const [, peft, here, test, differs, end] = line.split("|").map((cell) => cell.trim());
    assertEquals([end, about.length > 0], ["", true], line);
    rows.push({ about, line, peft: codes(peft), here: codes(here), test: codes(test), differs });
  }
  return rows;
}

const rows = readRows();

Deno.test("every member of PEFT has one row, and every row is about members", () => {
  assertEquals(new Set(rows.flatMap(({ about }) => about)), new Set(Object.keys(members)));
  for (const [about, names] of Object.entries(members)) {
    const section = rows.filter((row) => row.about.includes(about));
    const others = new Set(section[0].about.flatMap((one) => members[one]));
    const listed = section.flatMap(({ peft }) => peft);
    assertEquals(names.filter((name) => !listed.includes(name)), [], `${about}: no row`);
    assertEquals(listed.filter((name) => !others.has(name)), [], `${about}: not in PEFT`);
    assertEquals(listed.length, new Set(listed).size, `${about}: listed twice`);
  }
});

Deno.test("what is named here is exported, or a field of what is", async () => {
  const base = await goldenBase("llama");
  const model = graft.mergeAdapter(graft.getPeftModel(base, graft.loraConfig({ r: 2 })));
  const values: Readonly<Record<string, object>> = {
    base,
    model,
    adapter: model.adapters.get("default")!,
    layer: graft.getLayerStatus(model)[0],
    status: graft.getModelStatus(model),
  };
  const absent = new Set(
    rows.flatMap(({ here }) => here).filter((name) => {
      const [of, field] = name.split(".");
      return field ? !(field in values[of]) : !Object.hasOwn(graft, name);
    }),
  );
  assertEquals([...absent], []);
  // Where there is nothing, the row says why.
  for (const { here, line, differs } of rows) assert(here.length > 0 || differs !== "", line);
});

/** Fields of a status are compared all at once. */
const STATUS: Readonly<Record<string, string>> = {
  layer: "getLayerStatus",
  status: "getModelStatus",
};

Deno.test("tests that are named are about what is named", async () => {
  const wrong: string[] = [];
  for (const { here, test, line } of rows) {
    assertEquals(test.length > 0, here.length > 0, line);
    const names = here.map((name) => STATUS[name.split(".")[0]] ?? name.split(".").at(-1)!);
    for (const path of test) {
      const source = await Deno.readTextFile(new URL(path, tests));
      if (!names.some((name) => new RegExp(`\\b${name}\\b`).test(source))) {
        wrong.push(`${path} does not mention ${names.join(", ")}`);
      }
    }
  }
  assertEquals(wrong, []);
});

Deno.test("methods that are said to be here are, and the others are not", () => {
  const [, registered] = text.match(/^Registered methods: ([^.]+)\./m)!;
  assertEquals(codes(registered).toSorted(), [...graft.defaultMethods.keys()].sort());
  for (const { differs, line } of rows) {
    const [, absent] = differs.match(/^Not here yet: (`.*`)$/) ?? [];
    for (const name of codes(absent ?? "")) {
      assert(Object.hasOwn(graft.PeftType, name) && !graft.defaultMethods.has(name), line);
    }
  }
});

Deno.test("methods and tasks have PEFT's names, in its order", () => {
  // BONE is PEFT's name for what became MISS in 0.21, which has it no more.
  const present = Object.values(graft.PeftType).filter((name) => name !== "BONE");
  assertEquals<readonly string[]>(present, surface.enums.PeftType);
  assertEquals<readonly string[]>(graft.TASK_TYPES, surface.enums.TaskType);
});
