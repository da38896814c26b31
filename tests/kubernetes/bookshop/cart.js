// What somebody wants to buy: HTTP before Redis, over a connection that is kept.
const http = require("http");
const net = require("net");

let store = null;
let waiting = [];

function connected() {
  if (store) return store;
  const mine = net.connect(6379, "redis");
  store = mine;
  let said = "";
  mine.setEncoding("utf8");
  mine.on("data", (text) => {
    said += text;
    for (let answer; (answer = first(said)); ) {
      said = said.slice(answer.length);
      waiting.shift().resolve(answer.value);
    }
  });
  mine.on("error", () => {});
  mine.on("close", () => {
    if (store === mine) store = null;
    waiting.splice(0).forEach((one) => one.reject(new Error("Redis is away")));
  });
  return mine;
}

// The first whole answer of what was said: a number or a list of texts.
function first(said) {
  const lines = said.split("\r\n");
  if (lines.length < 2) return null;
  if (lines[0][0] !== "*") return { value: lines[0], length: lines[0].length + 2 };
  const needed = 1 + 2 * Number(lines[0].slice(1));
  if (lines.length <= needed) return null;
  const used = lines.slice(0, needed);
  const value = used.slice(1).filter((_, index) => index % 2 === 1);
  return { value, length: used.join("\r\n").length + 2 };
}

function asked(words) {
  return new Promise((resolve, reject) => {
    const all = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    const to = connected();
    waiting.push({ resolve, reject });
    to.write(`*${words.length}\r\n${all.join("")}`);
  });
}

// Once more over a new connection, if the kept one has ended.
const surely = (words) => asked(words).catch(() => asked(words));

http
  .createServer((request, response) => {
    if (request.url === "/alive") return response.end("alive\n");
    let body = "";
    request.on("data", (text) => (body += text));
    request.on("end", async () => {
      try {
        if (request.method === "POST") await surely(["RPUSH", "cart", body]);
        const cart = await surely(["LRANGE", "cart", "0", "-1"]);
        response.end(cart.join("\n") + "\n");
      } catch (error) {
        response.statusCode = 502;
        response.end(`${error.message}\n`);
      }
    });
  })
  .listen(8080);
