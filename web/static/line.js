// A place in the line, computed in the browser from the line document: the same steps as the server takes, so a page
// that only hears the public stream shows what the personal one says. Pure; nothing here touches the page.

const parsed = new WeakMap();

// The listed places of a document, ascending. Throws where `living.places` is not padded base64 of LEB128 gaps.
export function listedPlaces(document) {
  const places = [];
  let place = 0;
  let gap = 0;
  let scale = 1;
  for (const character of atob(document.living.places)) {
    const byte = character.charCodeAt(0);
    // Multiplied, not shifted: bit operations end at 32 bits, places go to 40.
    gap += (byte & 0x7f) * scale;
    if (byte & 0x80) {
      scale *= 128;
      continue;
    }
    place += gap;
    places.push(place);
    gap = 0;
    scale = 1;
  }
  if (scale !== 1) throw new RangeError("living.places ends inside a number");
  return places;
}

// The ranks whose places are listed: 1 to `exact` one by one, then r -> max(r + 1, floor(51 r / 50)), the last `waiting`.
export function listedRanks(waiting, exact) {
  const ranks = [];
  let rank = 0;
  while (rank < waiting) {
    rank = rank < exact ? rank + 1 : Math.min(waiting, Math.max(rank + 1, Math.floor((51 * rank) / 50)));
    ranks.push(rank);
  }
  return ranks;
}

// How many living people stand in front of `place`: exact under 256, within 1 % beyond.
export function ahead(document, place) {
  const { places, ranks } = listed(document);
  const step = countBelow(places, place);
  if (step === 0) return 0;
  const low = ranks[step - 1];
  const high = step < ranks.length ? ranks[step] - 1 : low;
  return Math.floor((low + high) / 2);
}

// How likely something is left at the turn of `place`, as a word of the catalogue; null where nobody can say.
export function odds(document, place) {
  if (!document.odds) return null;
  const people = ahead(document, place);
  if (people < document.odds.likely) return "likely";
  return people < document.odds.possible ? "possible" : "unlikely";
}

// Documents are ordered by epoch, then seq: time and numbering may go back when a line is recovered.
export function isNewer(document, than) {
  if (!than) return true;
  return document.epoch > than.epoch || (document.epoch === than.epoch && document.seq > than.seq);
}

function listed(document) {
  let found = parsed.get(document);
  if (!found) {
    found = { places: listedPlaces(document), ranks: listedRanks(document.waiting, document.living.exact) };
    if (found.places.length !== found.ranks.length) throw new RangeError("living.places does not fit waiting");
    parsed.set(document, found);
  }
  return found;
}

function countBelow(places, place) {
  let from = 0;
  let to = places.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (places[middle] < place) from = middle + 1;
    else to = middle;
  }
  return from;
}
