// Tables sort by a click on a column's name and show the rows that hold every word of the filter.
const COMPARISON = /^(.+?)(<=|>=|<|>|=)(-?\d*\.?\d+)$/;
const HOLDS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
const number = (cell) => cell.dataset.value === undefined ? NaN
  : { inf: Infinity, "-inf": -Infinity }[cell.dataset.value] ?? Number(cell.dataset.value);
const isMissing = (cell) => cell.querySelector(".na") !== null;
const byText = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  const x = number(a), y = number(b);
  if (!isNaN(x) && !isNaN(y)) return x - y;
  return isNaN(x) - isNaN(y) || byText.compare(a.textContent, b.textContent);
}

function sort(table, column, heading) {
  const down = heading.ariaSort === "none" ? heading.classList.contains("n") : heading.ariaSort === "ascending";
  for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
  heading.ariaSort = down ? "descending" : "ascending";
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    return isMissing(x) - isMissing(y) || (down ? compare(y, x) : compare(x, y)); // n/a comes last either way
  });
  table.tBodies[0].append(...rows);
}

function matches(row, word, columns) {
  const [, name, sign, value] = COMPARISON.exec(word) ?? [];
  const column = columns.findIndex((heading) => heading === name);
  if (column < 0) return row.textContent.toLowerCase().includes(word);
  return HOLDS[sign](number(row.cells[column]), Number(value)); // n/a is neither below nor above
}

for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table"), rows = [...table.tBodies[0].rows];
  const headings = [...table.tHead.rows[0].cells], [input, count] = [box.querySelector("input"), box.querySelector("output")];
  headings.forEach((heading, column) => {
    heading.ariaSort = "none";
    heading.firstChild.addEventListener("click", () => sort(table, column, heading));
  });
  const columns = headings.map((heading) => heading.textContent.toLowerCase());
  const filter = () => {
    const words = input.value.toLowerCase().replace(/\s*([<>=]+)\s*/g, "$1").split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => matches(row, word, columns));
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = `${shown} of ${rows.length}`;
  };
  input.addEventListener("input", filter);
  filter();
  box.querySelector(".tools").hidden = rows.length < 6;
}

for (const picture of document.querySelectorAll("figure img")) {
  picture.addEventListener("click", () => picture.parentElement.classList.toggle("full"));
}
