// Where nodes stand: a column for each block, the most influential on top, as large as there is room for.

/** From the largest look of a node to the smallest: its box, and how much of it is drawn. */
const LOOKS = [
  { name: "wide", width: 112, height: 40 },
  { name: "tall", width: 54, height: 58 },
  { name: "small", width: 34, height: 34 },
  { name: "dot", width: 16, height: 16 },
  { name: "point", width: 9, height: 9 },
];
const GAP = 6;
/** Room between columns, in which edges are seen, less of it on a phone; a block without nodes is a narrow strip. */
const BETWEEN = 34;
const NARROW = 26;
const HEADER = 24;

/** Which column a node stands in: what enters, block by block, the logit. */
function columnOf(node, nBlocks) {
  if (node.kind === "logit") return nBlocks + 1;
  return node.block < 0 ? (node.kind === "group" ? Math.ceil(nBlocks / 2) : 0) : node.block + 1;
}

/** Features first, then what is no feature; within these by influence. */
const standsBefore = (one, other) => (one.number < 0 && !one.group) - (other.number < 0 && !other.group) || other.influence - one.influence;

/** {look, height, columns: [{x, width, title}], places: Map(key → {x, y})}. */
function layoutOf(nodes, nBlocks, width, height) {
  const columns = Array.from({ length: nBlocks + 2 }, () => []);
  const [least, narrow] = [Math.min(BETWEEN, width / 24), Math.min(NARROW, width / 40)];
  for (const node of nodes) columns[columnOf(node, nBlocks)].push(node);
  for (const column of columns) column.sort(standsBefore);
  const fits = (look) => {
    const rows = Math.max(1, Math.floor((height - HEADER) / (look.height + GAP)));
    const across = columns.map(({ length }) => Math.ceil(length / rows));
    return { look, across, used: across.reduce((sum, n) => sum + (n ? n * (look.width + GAP) - GAP : narrow), 0) + least * (columns.length - 1) };
  };
  const tried = LOOKS.map(fits);
  const { look, across, used } = tried.find((one) => one.used <= width) ?? tried.at(-1);
  const between = least + Math.max(0, width - used) / (columns.length - 1);
  const tallest = Math.max(...columns.map(({ length }, i) => Math.ceil(length / Math.max(1, across[i]))));
  const inner = tallest * (look.height + GAP) - GAP;
  const places = new Map();
  let x = 0;
  const heads = columns.map((column, i) => {
    const wide = across[i] ? across[i] * (look.width + GAP) - GAP : narrow;
    const rows = Math.ceil(column.length / Math.max(1, across[i]));
    const top = HEADER + (inner - (rows * (look.height + GAP) - GAP)) / 2;
    column.forEach((node, at) =>
      places.set(node.key, {
        x: x + (at % across[i]) * (look.width + GAP),
        y: top + Math.floor(at / across[i]) * (look.height + GAP),
      }),
    );
    const head = { x, width: wide, n: column.length, title: i === 0 ? "enters" : i > nBlocks ? "logit" : wide > 44 ? `block ${i - 1}` : `${i - 1}` };
    x += wide + between;
    return head;
  });
  return { look, places, columns: heads, width: Math.max(width, x - between), height: HEADER + inner };
}
