// Whether anything will be left at the turn of someone with this many people ahead, as a word; never a rosier one than
// the figures are. The server says the same to browsers without scripts. Pure.
export function chance(ahead, line, limit) {
  if (ahead === null || !line?.stock) return null;
  const { free, held } = line.stock;
  const before = ahead + line.active;
  if (before * limit < free) return "sure";
  if (before < free) return "likely";
  return ahead < free + held ? "close" : "slim";
}
