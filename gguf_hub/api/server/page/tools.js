// Tools that this page itself computes, where they are switched on: the time, and arithmetic.

const TOOLS = {
  current_time: {
    description: "Tells the date and the time of the user.",
    parameters: { type: "object", properties: {} },
    run: () => new Date().toString(),
  },
  calculate: {
    description: "Computes an arithmetic expression with + - * / ^ % and parentheses.",
    parameters: {
      type: "object",
      properties: { expression: { type: "string", description: "Such as (3 + 4) * 2 ^ 0.5" } },
      required: ["expression"],
    },
    run: ({ expression }) => String(calculate(String(expression))),
  },
};

export const definitions = Object.entries(TOOLS).map(([name, { description, parameters }]) => (
  { type: "function", function: { name, description, parameters } }
));

// Returns what a call results in, as text; an error is one too, so that the model sees it.
export function run(call) {
  const tool = Object.hasOwn(TOOLS, call.name) ? TOOLS[call.name] : null;
  if (!tool) return `error: there is no tool ${call.name}`;
  try {
    return tool.run(JSON.parse(call.arguments || "{}"));
  } catch (error) {
    return `error: ${error.message}`;
  }
}

const BINARY = {
  "+": [1, (a, b) => a + b], "-": [1, (a, b) => a - b], "*": [2, (a, b) => a * b],
  "/": [2, (a, b) => a / b], "%": [2, (a, b) => a % b], "^": [4, (a, b) => a ** b],
};
const UNARY_STRENGTH = 3;  // -2 ^ 2 is -(2 ^ 2)

// Computes an expression by precedence climbing.
export function calculate(text) {
  const words = text.match(/\d+\.?\d*(?:e[+-]?\d+)?|\.\d+|[-+*/%^()]|\S/gi) ?? [];
  let at = 0;
  const value = expression(0, 0);
  if (at < words.length) throw new Error(`unexpected "${words[at]}"`);
  return value;

  function expression(strength, depth) {
    let left = operand(depth);
    for (;;) {
      const [own, compute] = Object.hasOwn(BINARY, words[at] ?? "") ? BINARY[words[at]] : [0];
      if (own <= strength) return left;
      const isRight = words[at++] === "^";  // 2 ^ 3 ^ 2 is 2 ^ (3 ^ 2)
      left = compute(left, expression(isRight ? own - 1 : own, depth));
    }
  }

  function operand(depth) {
    if (depth > 200) throw new Error("too many parentheses");
    const word = words[at++];
    if (word === "-") return -expression(UNARY_STRENGTH, depth + 1);
    if (word === "(") {
      const value = expression(0, depth + 1);
      if (words[at++] !== ")") throw new Error('expected ")"');
      return value;
    }
    if (!/^[.\d]/.test(word ?? "")) throw new Error(`expected a number, found "${word ?? "the end"}"`);
    return Number(word);
  }
}
