import { assertEquals } from "@std/assert";
import { loadPeftConfig } from "../../lib/adapters/checkpoint/load-peft-config.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { openSafetensors, writeSafetensors } from "../../lib/io/safetensors.ts";
import { loadTokenizer } from "../../lib/io/tokenizer.ts";
import { readJsonl } from "../../lib/training/examples.ts";
import { codeOf } from "./folder.ts";

Deno.test("paths that no file can have are typed errors", async () => {
  const long = `/tmp/${"x".repeat(300)}`;
  const codes: Readonly<Record<string, readonly string[]>> = {
    "a\0b": ["PATH"],
    "file://host/x.safetensors": ["PATH"],
    "file://%00": ["PATH"],
    [long]: ["FILE_UNREADABLE"],
    [`/${"a/".repeat(5000)}`]: ["FILE_UNREADABLE"],
    "/dev/null/x.safetensors": ["FILE_NOT_FOUND", "FILE_UNREADABLE"],
  };
  for (const [path, expected] of Object.entries(codes)) {
    for (const load of [loadModel, loadTokenizer, loadPeftConfig, openSafetensors, readJsonl]) {
      const code = await codeOf(load(path));
      assertEquals(expected.includes(code as string), true, `${load.name} of ${path}: ${code}`);
    }
  }
  assertEquals(await codeOf(writeSafetensors("a\0b", {})), "PATH");
  assertEquals(await codeOf(writeSafetensors(long, {})), "WRITE_FAILED");
});
