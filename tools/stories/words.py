"""Who may appear in a story, where, and with what.

Names carry their pronoun; animals carry what they can do and what they like to eat, so that a story
can be true to itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHE = (
    "Mila Lily Nora Rosa Ella Ivy Luna Clara Emma Greta Hanna Olive Penny Ruby Sofia Tilda Wanda Zoe "
    "Daisy Flora Maya Juno Stella Alma Frida"
).split()
HE = (
    "Pip Tom Leo Max Oscar Hugo Felix Otto Ben Finn Jack Theo Milo Sam Bruno Emil Oliver Toby Noah "
    "Basil Ravi Kaito Arthur Linus Paul"
).split()

# Syllables of names that nobody has: so that any name can be the name of somebody.
FIRST_SYLLABLES = "Ba Be Bo Ca Do Fa Fi Ga Ha Jo Ka Ki La Li Lu Ma Mo Na Ni Pa Po Ra Ri Sa Se Ta Ti Va Vi Zu".split()
LAST_SYLLABLES = "bo do la li lo ma mi na nia no ra ric rin ro sa ster ta ton va vin za zo bert da ne wick".split()

# A hero's kind; "girl" and "boy" follow the pronoun.
HERO_KINDS = (
    "fox rabbit hedgehog puppy kitten duckling penguin elephant dragon robot giraffe panda lamb goose "
    "raccoon pony hamster koala beaver seal peacock "
    "lion tiger zebra camel whale parrot snail unicorn crocodile kangaroo pirate wizard knight astronaut"
).split()
TRAITS = "small brave shy curious cheerful clever sleepy kind young gentle proud funny careful merry".split()
COLOURS = "red blue green yellow golden silver purple orange white pink".split()

HOMES = (
    "a little house by the sea",
    "a cosy burrow under an old oak",
    "a windmill on a green hill",
    "a boat on a slow river",
    "a village between two mountains",
    "a tall lighthouse",
    "a house with a crooked chimney",
    "a small town with a big clock",
    "a hut at the edge of the forest",
    "a castle with seven towers",
    "a garden full of bees",
    "a caravan with round windows",
    "a bakery on the corner",
    "a tree house with a rope ladder",
    "a cottage behind the waterfall",
    "a farmhouse at the end of the road",
)
PLACES = {
    "forest": "in", "meadow": "in", "beach": "on", "market": "at", "river": "by", "hill": "on", "lake": "by",
    "valley": "in", "orchard": "in", "harbour": "in", "park": "in", "village": "in", "mill": "at", "island": "on",
}  # fmt: skip
"""Place -> the preposition that it takes."""
TREES = "oak pine birch apple willow".split()

WEATHER = {
    "sunny": "The sun was warm on the grass",
    "windy": "The wind was playing with the leaves",
    "rainy": "Rain was tapping on the roofs",
    "snowy": "Soft snow lay on every branch",
    "foggy": "The fog was as thick as porridge",
    "cloudy": "Grey clouds were sailing over the hills",
    "frosty": "The puddles had turned to ice",
}

# Small things that one may see on the way, in any weather.
SIGHTS = (
    "A snail was crossing the road without any hurry.",
    "Somewhere, a bell rang three times.",
    "A row of ants was carrying a leaf.",
    "Two sparrows were arguing on a fence.",
    "The miller waved from a window.",
    "A cat was asleep on a barrel.",
    "Far away, a train was whistling.",
    "It smelled of wood smoke and cinnamon.",
    "An old man was mending his nets.",
    "Somebody had left a blue mitten on a post.",
    "A frog was practising long jumps.",
    "The baker was singing, a little out of tune.",
    "On the roof sat seven pigeons, all looking the same way.",
    "A small dog was carrying a very big stick.",
    "Somewhere, somebody was playing the piano.",
)

# What the hero loves: (doing it, the same on the evening of the last day).
LOVES = (
    ("singing", "sang a new song"),
    ("drawing maps", "drew a new map"),
    ("counting stars", "counted the stars until the sky was full of numbers"),
    ("collecting shells", "put a new shell on the shelf"),
    ("telling jokes", "told the very best joke"),
    ("dancing", "danced until the moon went to bed"),
    ("reading books", "read one more chapter"),
    ("building towers", "built the tallest tower of all"),
    ("painting", "painted a picture of the whole day"),
    ("asking questions", "had no more questions, only a big smile"),
    ("baking bread", "baked a warm loaf of bread for everyone"),
    ("watching clouds", "watched the last cloud turn pink"),
    ("climbing trees", "climbed the tallest tree to see the sunset"),
    ("looking at maps", "found a far island on the map and gave it a name"),
    ("swimming", "swam one last round in the golden light"),
    ("writing letters", "wrote a long letter about it all"),
    ("growing flowers", "watered the flowers and told them everything"),
    ("cooking", "cooked a big pot of soup for all the friends"),
    ("skipping stones", "threw a stone that jumped nine times"),
    ("playing the flute", "played the flute until the crickets joined in"),
)

# Animal that helps: (what it can do, the food that it likes).
HELPERS = {
    "squirrel": ("climb", "nuts"),
    "monkey": ("climb", "bananas"),
    "owl": ("fly", "seeds"),
    "crow": ("fly", "cherries"),
    "robin": ("fly", "crumbs"),
    "otter": ("swim", "shrimps"),
    "frog": ("swim", "dumplings"),
    "duck": ("swim", "bread"),
    "mole": ("dig", "carrots"),
    "badger": ("dig", "mushrooms"),
    "bear": ("lift", "honey"),
    "ox": ("lift", "hay"),
    "firefly": ("shine", "nectar"),
    "mouse": ("squeeze", "cheese"),
    "lizard": ("squeeze", "berries"),
}
ABILITIES = {
    "climb": "climb trees",
    "fly": "fly",
    "swim": "swim",
    "dig": "dig",
    "lift": "lift heavy things",
    "shine": "shine in the dark",
    "squeeze": "squeeze through tiny gaps",
}

# Things that one can carry and lose.
THINGS = (
    "kite ball hat bell key drum lantern scarf flute book spoon button boat cup ring marble umbrella "
    "feather teapot candle whistle basket mask pencil compass coat bucket"
).split()
FOODS = (
    "onion soup|plum cake|warm bread|hot chocolate|honey toast|apple pudding|pea stew|cherry jam|rice pudding|potato salad|"
    "fresh waffles|tomato soup|cinnamon buns"
).split("|")
FEELINGS = ("happy", "proud", "glad", "full of joy")


INSTRUMENTS = "violin trumpet drum flute piano guitar harp".split()
LANDMARKS = (
    "old well|broken bridge|hollow oak|stone lion|round pond|red barn|mossy rock|blue gate|empty nest|"
    "white fence|rusty anchor|sleeping cow"
).split("|")
TRADERS = (*HELPERS, "miller", "sailor", "baker", "shepherd", "postman")

# Dish: its ingredients; and where the one that is missing can be had.
DISHES = {
    "pancakes": ("eggs", "milk", "flour"),
    "a honey cake": ("honey", "flour", "eggs"),
    "an apple pie": ("apples", "butter", "flour"),
    "nut biscuits": ("nuts", "butter", "honey"),
    "pumpkin soup": ("pumpkins", "milk", "salt"),
    "blueberry muffins": ("blueberries", "eggs", "milk"),
    "carrot soup": ("carrots", "butter", "salt"),
    "a cheese tart": ("cheese", "eggs", "butter"),
}
SOURCES = {
    "eggs": "hen",
    "milk": "cow",
    "honey": "bear",
    "flour": "miller",
    "apples": "gardener",
    "butter": "dairy maid",
    "nuts": "squirrel",
    "pumpkins": "farmer",
    "blueberries": "old lady next door",
    "salt": "fisherman",
    "carrots": "teacher",
    "cheese": "mouse",
}
UNCOUNTABLE = frozenset("milk honey flour butter salt cheese".split())

RIDDLES = (
    ("What has hands but cannot clap?", "a clock"),
    ("What gets wetter the more it dries?", "a towel"),
    ("What has teeth but cannot bite?", "a comb"),
    ("What runs all day but has no legs?", "a river"),
    ("What has a neck but no head?", "a bottle"),
    ("What can you break without touching it?", "a promise"),
    ("What has one eye but cannot see?", "a needle"),
    ("What is full of holes and still holds water?", "a sponge"),
    ("What do you leave behind, the more of them you take?", "footsteps"),
    ("What is light as a feather, but nobody can hold it for long?", "breath"),
    ("What has leaves but is not a tree?", "a book"),
    ("What comes down but never goes up?", "rain"),
)

# Weather: what it does, what helps, what one can do then.
DAYS = {
    "rainy": (
        "It rained and rained, and {h} was wet to the skin",
        "umbrella",
        "They jumped into every puddle on the way home",
    ),
    "windy": (
        "The wind blew {his} hat over the hedge",
        "kite",
        "The kite pulled them up the hill, and they found the hat in a tree",
    ),
    "sunny": (
        "It was so hot that even the stones were thirsty",
        "lemonade",
        "They drank it in the shade and told each other stories",
    ),
    "snowy": (
        "The snow was so high that {h} could not open the door",
        "shovel",
        "They built a snow bear with a carrot for a nose",
    ),
    "foggy": (
        "The fog was so thick that {h} lost the way",
        "lantern",
        "They followed the light, step by step, all the way home",
    ),
    "frosty": (
        "{h}'s nose was blue with cold",
        "scarf",
        "The scarf was so long that it was enough for both of them",
    ),
    "cloudy": (
        "The sky was grey, and {h} did not know what to do",
        "paintbox",
        "They painted a sun on the wall, as yellow as butter",
    ),
}


@dataclass(frozen=True)
class Escape:
    """How a thing got away: what happened, where it is now, and how each ability brings it back."""

    happens: str
    where: str
    ways: Mapping[str, str]


ESCAPES = (
    Escape(
        "A strong wind took the {thing} out of {his} hands and carried it into the top of a tall {tree} tree.",
        "in the top of the {tree} tree",
        {
            "climb": "climbed from branch to branch up to the very top and came down with the {thing}",
            "fly": "spread [its|both] wings, flew up to the very top and came back with the {thing}",
        },
    ),
    Escape(
        "The {thing} rolled down the bank and fell into the deep water. Plop!",
        "at the bottom of the water",
        {"swim": "jumped in, swam down to the bottom and came up with the {thing}"},
    ),
    Escape(
        "The {thing} slipped out of {his} hands and fell into a deep, narrow hole.",
        "deep down in the hole",
        {"dig": "dug and dug until the earth flew through the air, and there was the {thing}"},
    ),
    Escape(
        "Crash! A heavy log rolled down the hill and came to rest on top of the {thing}.",
        "under the heavy log",
        {"lift": "lifted the log as if it were a feather, and there was the {thing}"},
    ),
    Escape(
        "The {thing} bounced down the path and rolled into a dark cave.",
        "somewhere in the dark cave",
        {"shine": "flew into the cave and lit up every corner until {he} could see the {thing}"},
    ),
    Escape(
        "The {thing} rolled along the street and disappeared into a crack in an old wall.",
        "behind a crack in the wall",
        {"squeeze": "squeezed through the crack and pushed the {thing} out on the other side"},
    ),
)


def a(noun: str) -> str:
    """Put the right indefinite article before a noun or its adjective."""
    sounds_open = noun[:1].lower() in "aeiou" and not noun.lower().startswith("uni")
    return f"{'an' if sounds_open else 'a'} {noun}"


LISTS = {
    "colours": COLOURS,
    "things": THINGS,
    "foods": FOODS,
    "trees": TREES,
    "landmarks": LANDMARKS,
    "instruments": INSTRUMENTS,
    "animals": list(HELPERS),
}
"""The lists that a plot may draw from."""
