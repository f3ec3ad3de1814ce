// A text on its way from masks: at every position a piece of it (null under the mask), its confidence, and the number
// of the step that wrote it (-1 where none did).
const element = (id) => document.getElementById(id);

function emptyCells(given) {
  return given.map(() => ({ piece: null, confidence: 0, order: -1 }));
}

function changedCells(cells, changes, given, number) {
  const next = cells.slice();
  for (const [position, piece, confidence] of changes) {
    const order = piece === null || given[position] ? -1 : number;
    const kept = next[position].piece === piece ? next[position].order : order;
    next[position] = { piece, confidence, order: kept };
  }
  return next;
}

function spansFor(given) {
  element("text").replaceChildren();
  return given.map((isGiven) => {
    const span = document.createElement("span");
    if (isGiven) span.className = "given";
    element("text").append(span);
    return span;
  });
}

// Shows the cells, coloured by a share from 0 to 1, and returns how many are masked.
function paint(spans, cells, given, number, shareOf) {
  let numMasked = 0;
  cells.forEach((cell, position) => {
    const span = spans[position];
    const isMasked = cell.piece === null;
    numMasked += isMasked;
    span.textContent = isMasked ? "\u2592" : cell.piece;
    if (given[position]) return;
    const isNew = number > 0 && cell.piece && cell.order === number;  // nothing is shown behind the end of a text
    span.className = isMasked ? "mask" : isNew ? "new" : "";
    span.style.background = isMasked ? "none" : "hsl(" + Math.round(120 * shareOf(cell)) + " 75% 50% / .35)";
    span.title = isMasked ? "" : "confidence " + cell.confidence.toFixed(3) + ", step " + cell.order;
  });
  return numMasked;
}
