import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError } from "../../lib/errors.ts";
import { type GroupedFile, withSettledFiles, writeFilesAtomic } from "../../lib/io/atomic-files.ts";
import { inFolder, namesIn } from "./folder.ts";

/** How many processes are killed. */
const KILLS = 200;

const text = (path: string, contents: string): GroupedFile => ({
  path,
  write: (staged) => Deno.writeTextFile(staged, contents),
});

Deno.test("all files of a group are written, folders included", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "b"), "old");
    await writeFilesAtomic([text(join(folder, "x", "y", "a"), "1"), text(join(folder, "b"), "2")]);
    assertEquals(namesIn(folder), ["b", "x"]);
    assertEquals(await Deno.readTextFile(join(folder, "b")), "2");
    assertEquals(await Deno.readTextFile(join(folder, "x", "y", "a")), "1");
    assertEquals(namesIn(join(folder, "x", "y")), ["a"]);
  });
});

Deno.test("when one fails, none is written and nothing is left behind", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "a"), "old");
    await Deno.mkdir(join(folder, "taken"));
    const failing: GroupedFile[][] = [
      [text(join(folder, "a"), "new"), {
        path: join(folder, "x", "b"),
        write: () => Promise.reject(new RangeError("no")),
      }],
      // This one fails only when the others have taken their places.
      [
        text(join(folder, "a"), "new"),
        text(join(folder, "c"), "c"),
        text(join(folder, "taken"), ""),
      ],
    ];
    await assertRejects(() => writeFilesAtomic(failing[0]), RangeError);
    await assertRejects(() => writeFilesAtomic(failing[1]), FileError);
    assertEquals(namesIn(folder), ["a", "taken"]);
    assertEquals(await Deno.readTextFile(join(folder, "a")), "old");
    await assertRejects(() => writeFilesAtomic([text(join(folder, "a", "b"), "")]), FileError);
  });
});

/** What a folder's two files say, once it is settled. */
async function readPair(folder: string): Promise<string> {
  return await withSettledFiles(folder, async () => {
    const [a, b] = await Promise.all(
      PAIR.map((name) => Deno.readTextFile(join(folder, name))),
    );
    assertEquals(a, b);
    return a;
  });
}

const PAIR = ["adapter_config.json", "adapter_model.safetensors"];

function startSaver(folder: string, name: string, rounds?: number): Deno.ChildProcess {
  const script = new URL("saver.ts", import.meta.url).pathname;
  const args = [folder, name, ...rounds === undefined ? [] : [String(rounds)]];
  const permissions = [`--allow-read=${folder}`, `--allow-write=${folder}`];
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", ...permissions, script, ...args],
    stdout: "piped",
  }).spawn();
}

Deno.test("processes that save into one folder at the same time neither lose nor mix", async () => {
  await inFolder(async (folder) => {
    const savers = [..."abcd"].map((name) => startSaver(folder, name, 40));
    const ended = Promise.all(savers.map((saver) => saver.output()));
    let running = true, read = 0;
    ended.then(() => running = false);
    while (running) {
      await new Promise((next) => setTimeout(next, 1));
      if (read || namesIn(folder).includes(PAIR[0])) {
        assertMatch(await readPair(folder), /^[abcd] \d+ /);
        read++;
      }
    }
    assertEquals((await ended).map(({ success }) => success), [true, true, true, true]);
    assertMatch(await readPair(folder), /^[abcd] 39 /);
    assertEquals(namesIn(folder), PAIR);
    assert(read > 10, `${read} reads`);
  });
});

Deno.test("a process that is killed while it saves leaves the old files or the new ones", async () => {
  await inFolder(async (folder) => {
    let journals = 0, mixed = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const saver = startSaver(folder, `k${kill}`);
      const reader = saver.stdout.getReader();
      await reader.read(); // it has saved once
      await new Promise((next) => setTimeout(next, kill % 10));
      saver.kill("SIGKILL");
      await reader.read();
      await saver.status;
      reader.releaseLock();
      await saver.stdout.cancel();
      if (namesIn(folder).some((name) => name.startsWith(".graft"))) journals++;
      const [a, b] = PAIR.map((name) => Deno.readTextFileSync(join(folder, name)));
      if (a !== b) mixed++;
      // The old or the new: as this process left it, in any case.
      assertMatch(await readPair(folder), new RegExp(`^k${kill} `));
    }
    await writeFilesAtomic([
      text(join(folder, PAIR[0]), "last"),
      text(join(folder, PAIR[1]), "last"),
    ]);
    assertEquals(namesIn(folder), PAIR);
    console.log(
      `${KILLS} kills, ${journals} of them while files took their places, ${mixed} with some of both until settled`,
    );
  });
});

Deno.test("a journal that was forged moves nothing out of its folder", async () => {
  await inFolder(async (folder) => {
    const inner = join(folder, "adapter");
    await Deno.mkdir(inner);
    await Deno.writeTextFile(join(folder, ".a.00000000.new"), "from outside");
    const journal = { tag: "00000000", files: ["../a"], removed: ["../b"] };
    await Deno.writeTextFile(join(folder, "b"), "b");
    await Deno.writeTextFile(join(inner, ".graft-saving.json"), JSON.stringify(journal));
    assertEquals(await withSettledFiles(inner, () => Promise.resolve(1)), 1);
    assertEquals(namesIn(folder), [".a.00000000.new", "adapter", "b"]);
  });
});

Deno.test("a journal that is damaged says nothing, and is cleared away", async () => {
  await inFolder(async (folder) => {
    for (const damage of ["", "{", '{"tag":1}', '{"tag":"00000000","files":["\0"],"removed":[]}']) {
      await Deno.writeTextFile(join(folder, ".graft-saving.json"), damage);
      await writeFilesAtomic([text(join(folder, "a"), damage)]);
      assertEquals(namesIn(folder), ["a"], damage);
      assertEquals(await Deno.readTextFile(join(folder, "a")), damage);
    }
  });
});
