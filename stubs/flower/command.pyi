import flower.app

Flower: type[flower.app.Flower]
