// While R is held every image is sharp. The table of all items is searched, sorted and paged here.
// Nothing else on the page needs a script.
const root = document.documentElement;
const hold = (on) => root.classList.toggle("held", on);
root.classList.add("scripted");
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
  if (event.code === "KeyR" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) hold(true);
});
addEventListener("keyup", (event) => event.code === "KeyR" && hold(false));
addEventListener("blur", () => hold(false));

const MARKS = { s: "\u2713 success", f: "\u2717 failure", u: "unscored", "-": "\u2013" };
const PER_PAGE = 50;
const found = (id) => document.getElementById(id);

function listItems(source) {
  const runs = JSON.parse(source.content.textContent);
  const rows = runs.map((items) => items.map(([prompts, id, prompt, seed, anchor, outcomes]) => ({
    prompts, id, prompt, seed, anchor, outcomes,
    text: `${id}\n${prompt}`.toLowerCase(),
    failures: outcomes.split("f").length - 1,
    counted: outcomes.length - (outcomes.split("-").length - 1),
  })));
  const headings = [...document.querySelectorAll(".index th")];
  const body = document.querySelector(".index tbody");
  let sort = -1, down = false, page = 0, shown = [];
  const cell = () => found("cell").value.split(" ").map(Number);
  const keys = [(r) => r.id, (r) => r.outcomes[cell()[1]], (r) => r.failures, (r) => r.prompt, (r) => r.prompts, (r) => r.seed];

  function select() {
    const [run, place] = cell(), words = found("search").value.toLowerCase().trim(), outcome = found("outcome").value;
    shown = rows[run].filter((r) => (!outcome || r.outcomes[place] === outcome) && (!words || r.text.includes(words)));
    if (sort >= 0) {
      const key = keys[sort], sign = down ? -1 : 1;
      const by = new Intl.Collator("en", { numeric: true });
      const compare = sort === 2 || sort === 5 ? (a, b) => a - b : by.compare;
      shown = shown.map((r) => [key(r), r]).sort((a, b) => sign * compare(a[0], b[0])).map((pair) => pair[1]);
    }
    page = 0;
    render();
  }

  function entry(row, text, kind = "") {
    const td = row.insertCell();
    td.textContent = text;
    td.className = kind;
    return td;
  }

  function render() {
    const last = Math.max(0, Math.ceil(shown.length / PER_PAGE) - 1), place = cell()[1];
    page = Math.min(Math.max(page, 0), last);
    const first = page * PER_PAGE, part = shown.slice(first, first + PER_PAGE);
    body.replaceChildren();
    for (const item of part) {
      const row = body.insertRow(), name = entry(row, item.anchor ? "" : item.id), outcome = item.outcomes[place];
      if (item.anchor) {
        const link = document.createElement("a");
        link.href = `#item-${item.anchor}`;
        link.textContent = item.id;
        name.append(link);
      }
      entry(row, MARKS[outcome], `verdict ${{ s: "success", f: "failure" }[outcome] ?? ""}`);
      entry(row, `${item.failures} of ${item.counted}`, "num");
      entry(row, item.prompt, "prompt");
      entry(row, item.prompts);
      entry(row, String(item.seed), "num");
    }
    found("place").textContent = shown.length ? `${first + 1} to ${first + part.length} of ${shown.length}` : "no item";
    found("back").disabled = page === 0;
    found("next").disabled = page === last;
  }

  headings.forEach((heading, i) => heading.firstChild.addEventListener("click", () => {
    [sort, down] = [i, sort === i && !down];
    headings.forEach((h, j) => h.setAttribute("aria-sort", j !== i ? "none" : down ? "descending" : "ascending"));
    select();
  }));
  for (const id of ["search", "outcome", "cell"]) found(id).addEventListener("input", select);
  found("back").addEventListener("click", () => { page -= 1; render(); });
  found("next").addEventListener("click", () => { page += 1; render(); });
  select();
}

if (found("data")) listItems(found("data"));
