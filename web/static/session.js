// Goes on with this browser's session: its access cookie lasts minutes, a sale hours. Whether it could be renewed.
export async function renewed() {
  const answer = await fetch("/v1/sessions/refresh", { method: "POST" });
  return answer.ok;
}
