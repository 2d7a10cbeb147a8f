// A few texts to try things on: the same as the Python client's `saeserve.EXAMPLES`, which a test compares.

/** By name, in the order in which they are offered. */
export const EXAMPLES = {
  literary:
    'By the time the ferry reached the island the light had gone out of the water. She stood at the rail with ' +
    'her collar up, counting the lamps along the quay as she had counted them when she was nine, and found, as ' +
    'she had known she would, that one of them was missing.',
  news:
    'The city council voted 7 to 4 on Tuesday to close two of its five fire stations, despite protests from ' +
    'residents who had filled the hall since noon. Mayor Ruth Adeyemi said the decision would save 3.2 million a ' +
    'year; the union called it reckless and announced a strike for Friday.',
  code:
    'def mean(values: list[float]) -> float:\n    """The arithmetic mean; raises ValueError for an empty ' +
    'list."""\n    if not values:\n        raise ValueError("no values")\n    return sum(values) / len(values)\n',
  science:
    'When light passes from air into water it slows down and bends towards the normal. The ratio of the two ' +
    'speeds is the refractive index, about 1.33 for water, and it depends on the wavelength: blue light is bent ' +
    'more than red, which is why a prism spreads white light into a spectrum.',
  recipe:
    'Melt 40 g of butter in a heavy pan, add two onions cut into thin rings and cook them slowly, for at least ' +
    'half an hour, until they are soft and brown. Stir in a spoonful of flour, pour on a litre of hot stock, and ' +
    'season with salt, pepper and a little thyme.',
  dialogue:
    '"Did you lock the door?" he asked.\n"I thought you had."\n"I never had the key."\n"Then who," she said, ' +
    'putting down her cup, "is walking about upstairs?"',
  odyssey:
    "In 'The Odyssey', Homer takes us on an epic journey with Odysseus, whose adventures and trials on his way " +
    'back to Ithaca after the Trojan War offer timeless insights into the human condition and the quest for home.',
}
